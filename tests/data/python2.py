"""Pickles as the published CIFAR batches are written."""

import struct
from typing import Any


def python2(value: Any) -> bytes:
    """`value` as Python 2's cPickle and numpy write it (protocol 2), which is what the published batches hold."""
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(map(python2, value.shape)) + b"\x86"
    return made + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", value.size) + value.tobytes() + b"tb"


def python2_file(value: Any) -> bytes:
    return b"\x80\x02" + python2(value) + b"."
