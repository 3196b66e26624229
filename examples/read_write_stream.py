"""A stream read and written with the packages msgpack and xxhash.

    sq-load examples/tiny | python3 examples/read_write_stream.py | sq-dump --check

Copies stdin to stdout and lists the tensors on stderr. schemas/stream.md says what the bytes mean."""
import sys

import msgpack
import xxhash

CHUNK = 64 << 20  # a chunk has at most 64 MiB


def read(file):
    """Yields (header, payload) up to the end record; ends early only by an exception."""
    records = msgpack.Unpacker(file, max_buffer_size=CHUNK + 4096, read_size=1 << 20)
    for head in records:
        if head["record"] in ("end", "abort"):
            assert head["record"] == "end", head["text"]
            return
        payload = bytearray()
        while head["record"] != "begin" and len(payload) < head.get("bytes", 0):
            chunk = next(records)
            assert xxhash.xxh3_64_hexdigest(chunk["data"]) == chunk["xxh3"], "damaged"
            payload += chunk["data"]
        yield head, payload
    raise EOFError("input ended without an end record")


def write(file, records):
    digest, size, count = xxhash.xxh3_64(), 0, 0

    def put(head):
        nonlocal size
        data = msgpack.packb(head)
        digest.update(data)
        size += len(data)
        file.write(data)

    for head, payload in records:
        put(head)
        count += 1
        for i in range(0, len(payload), CHUNK):
            data = bytes(payload[i:i + CHUNK])
            put({"record": "chunk", "data": data, "xxh3": xxhash.xxh3_64_hexdigest(data)})
    file.write(msgpack.packb({"record": "end", "records": count, "size": size, "xxh3": digest.hexdigest()}))
    file.flush()


def looked_at(records):
    for head, payload in records:
        if head["record"] == "tensor":
            print(head.get("layer", "-"), head["name"], head["dtype"], head["shape"], file=sys.stderr)
        yield head, payload


if __name__ == "__main__":
    write(sys.stdout.buffer, looked_at(read(sys.stdin.buffer)))
