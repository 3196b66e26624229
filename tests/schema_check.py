"""Every header of a stream against schemas/<record>.json: schema_check.py STREAM...  Standard library only; the msgpack reader
here shares nothing with libsq, so it also checks that the bytes are what schemas/stream.md says."""
import json, os, re, struct, sys

SCHEMAS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "schemas")
KNOWN = {"$schema", "title", "description", "type", "const", "enum", "required", "properties", "items", "minItems", "maxItems", "minimum", "maximum",
         "pattern", "oneOf"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


class Wrong(Exception):
    pass


def unpack(f):
    """One msgpack value; also insists on the shortest form."""
    def take(n):
        b = f.read(n)
        if len(b) != n:
            raise Wrong("the stream ends inside a value")
        return b

    def uint(n, least):
        v = int.from_bytes(take(n), "big")
        if v < least:
            raise Wrong(f"{v} in {n} bytes is not the shortest form")
        return v

    def array(n):
        return [unpack(f) for _ in range(n)]

    def pairs(n):
        d = {}
        for _ in range(n):
            k = unpack(f)
            if not isinstance(k, str) or k in d:
                raise Wrong(f"bad key {k!r}")
            d[k] = unpack(f)
        return d

    b = take(1)[0]
    if b < 0x80: return b
    if b < 0x90: return pairs(b & 15)
    if b < 0xa0: return array(b & 15)
    if b < 0xc0: return take(b & 31).decode()
    if b >= 0xe0: return b - 256
    if b == 0xc0: return None
    if b in (0xc2, 0xc3): return b == 0xc3
    if b in (0xc4, 0xc5, 0xc6): return take(uint(1 << b - 0xc4, (0, 1 << 8, 1 << 16)[b - 0xc4]))
    if b == 0xcb: return struct.unpack(">d", take(8))[0]
    if 0xcc <= b <= 0xcf: return uint(1 << b - 0xcc, (1 << 7, 1 << 8, 1 << 16, 1 << 32)[b - 0xcc])
    if 0xd0 <= b <= 0xd3:
        v = int.from_bytes(take(1 << b - 0xd0), "big", signed=True)
        if v >= (-32, -128, -32768, -(1 << 31))[b - 0xd0]:
            raise Wrong(f"{v} as type {b:#x} is not the shortest form")
        return v
    if b in (0xd9, 0xda, 0xdb): return take(uint(1 << b - 0xd9, (32, 1 << 8, 1 << 16)[b - 0xd9])).decode()
    if b in (0xdc, 0xdd): return array(uint(2 << b - 0xdc, (16, 1 << 16)[b - 0xdc]))
    if b in (0xde, 0xdf): return pairs(uint(2 << b - 0xde, (16, 1 << 16)[b - 0xde]))
    raise Wrong(f"type {b:#x} is not allowed")


def check(schema, value, at):
    unknown = set(schema) - KNOWN
    if unknown:
        raise Wrong(f"{at}: this checker does not know {unknown}")
    t = schema.get("type")
    if t and (not isinstance(value, TYPES[t]) or (isinstance(value, bool) and t != "boolean")):
        raise Wrong(f"{at} is {value!r}, not {t}")
    if "const" in schema and value != schema["const"]:
        raise Wrong(f"{at} is {value!r}, not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        raise Wrong(f"{at} is {value!r}, not one of {schema['enum']}")
    if "minimum" in schema and value < schema["minimum"] or "maximum" in schema and value > schema["maximum"]:
        raise Wrong(f"{at} is {value!r}, out of range")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        raise Wrong(f"{at} is {value!r}, does not match {schema['pattern']}")
    if isinstance(value, dict):
        for k in schema.get("required", []):
            if k not in value:
                raise Wrong(f"{at} has no {k!r}")
        for k, s in schema.get("properties", {}).items():
            if k in value:
                check(s, value[k], f"{at}.{k}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30):
            raise Wrong(f"{at} has {len(value)} items")
        for i, v in enumerate(value):
            check(schema.get("items", {}), v, f"{at}[{i}]")
    if "oneOf" in schema:
        fits = []
        for s in schema["oneOf"]:
            try:
                check(s, value, at)
                fits.append(s)
            except Wrong as e:
                reason = e
        if len(fits) != 1:
            raise Wrong(f"{at} fits {len(fits)} of oneOf" + ("" if fits else f": {reason}"))


def records(path):
    schemas = {n[:-5]: json.load(open(os.path.join(SCHEMAS, n))) for n in os.listdir(SCHEMAS) if n.endswith(".json")}
    seen = {}
    with open(path, "rb") as f:
        left = 0
        while f.peek(1):
            head = unpack(f)
            kind = head["record"]
            if (kind == "chunk") != (left > 0) and kind != "abort":
                raise Wrong(f"record {kind} with {left} payload bytes due")
            seen[kind] = seen.get(kind, 0) + 1
            if kind in schemas:
                check(schemas[kind], head, kind)
                listed = [k for k in schemas[kind]["properties"] if k in head]
                if [k for k in head if k in listed] != listed:
                    raise Wrong(f"{kind}: members are in the order {list(head)}, the schema lists {listed}")
            if kind == "chunk":
                if len(head["data"]) != min(left, 64 << 20):
                    raise Wrong(f"a chunk of {len(head['data'])} bytes with {left} due")
                left -= len(head["data"])
            elif kind != "end":
                left = head.get("bytes", 0)
    if left or kind not in ("end", "abort"):
        raise Wrong("the stream is not complete")
    return seen


if __name__ == "__main__":
    for path in sys.argv[1:]:
        try:
            print(path, *[f"{k}:{n}" for k, n in sorted(records(path).items())])
        except Wrong as e:
            sys.exit(f"{path}: {e}")
