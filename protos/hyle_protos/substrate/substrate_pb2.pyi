from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Matrix(_message.Message):
    __slots__ = ("rows", "cols", "format", "data")
    class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INT32: _ClassVar[Matrix.Format]
        FLOAT32: _ClassVar[Matrix.Format]
    INT32: Matrix.Format
    FLOAT32: Matrix.Format
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    rows: int
    cols: int
    format: Matrix.Format
    data: bytes
    def __init__(self, rows: _Optional[int] = ..., cols: _Optional[int] = ..., format: _Optional[_Union[Matrix.Format, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("identity", "profile", "tiles", "simulated")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    identity: str
    profile: bytes
    tiles: int
    simulated: bool
    def __init__(self, identity: _Optional[str] = ..., profile: _Optional[bytes] = ..., tiles: _Optional[int] = ..., simulated: _Optional[bool] = ...) -> None: ...

class ProgramRequest(_message.Message):
    __slots__ = ("owner", "tile", "targets", "write")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    owner: str
    tile: int
    targets: Matrix
    write: int
    def __init__(self, owner: _Optional[str] = ..., tile: _Optional[int] = ..., targets: _Optional[_Union[Matrix, _Mapping]] = ..., write: _Optional[int] = ...) -> None: ...

class ProgramReport(_message.Message):
    __slots__ = ("residual", "seconds")
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    residual: float
    seconds: float
    def __init__(self, residual: _Optional[float] = ..., seconds: _Optional[float] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("owner", "tiles", "codes")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    owner: str
    tiles: _containers.RepeatedScalarFieldContainer[int]
    codes: Matrix
    def __init__(self, owner: _Optional[str] = ..., tiles: _Optional[_Iterable[int]] = ..., codes: _Optional[_Union[Matrix, _Mapping]] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ("codes",)
    CODES_FIELD_NUMBER: _ClassVar[int]
    codes: Matrix
    def __init__(self, codes: _Optional[_Union[Matrix, _Mapping]] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("readings",)
    class ReadingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.ScalarMap[str, float]
    def __init__(self, readings: _Optional[_Mapping[str, float]] = ...) -> None: ...
