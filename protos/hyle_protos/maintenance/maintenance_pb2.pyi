from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenRequest(_message.Message):
    __slots__ = ("holder", "purpose", "tiles")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    holder: str
    purpose: str
    tiles: int
    def __init__(self, holder: _Optional[str] = ..., purpose: _Optional[str] = ..., tiles: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("token", "expires_in_s", "renew_every_s", "grace_s", "first_tile", "tiles", "serving")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    RENEW_EVERY_S_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_TILE_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_in_s: float
    renew_every_s: float
    grace_s: float
    first_tile: int
    tiles: int
    serving: str
    def __init__(self, token: _Optional[str] = ..., expires_in_s: _Optional[float] = ..., renew_every_s: _Optional[float] = ..., grace_s: _Optional[float] = ..., first_tile: _Optional[int] = ..., tiles: _Optional[int] = ..., serving: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class Restored(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[RestoredModel]
    def __init__(self, models: _Optional[_Iterable[_Union[RestoredModel, _Mapping]]] = ...) -> None: ...

class RestoredModel(_message.Message):
    __slots__ = ("name", "serves", "residual", "tolerance", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVES_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    serves: bool
    residual: float
    tolerance: float
    reason: str
    def __init__(self, name: _Optional[str] = ..., serves: _Optional[bool] = ..., residual: _Optional[float] = ..., tolerance: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class ShowRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Holding(_message.Message):
    __slots__ = ("held", "holder", "purpose", "expires_in_s", "first_tile", "tiles")
    HELD_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    FIRST_TILE_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    held: bool
    holder: str
    purpose: str
    expires_in_s: float
    first_tile: int
    tiles: int
    def __init__(self, held: _Optional[bool] = ..., holder: _Optional[str] = ..., purpose: _Optional[str] = ..., expires_in_s: _Optional[float] = ..., first_tile: _Optional[int] = ..., tiles: _Optional[int] = ...) -> None: ...
