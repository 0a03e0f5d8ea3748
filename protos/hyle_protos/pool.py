"""The descriptor pool of hyle's messages, apart from protobuf's default one.

Other packages (tritonclient, tahu) register messages of the same full names; a pool of our own lets both live in one
process.
"""

from google.protobuf import descriptor_pool

__all__ = ["POOL"]

POOL = descriptor_pool.DescriptorPool()
