"""A small interpreter of PTX: what nvcc made of a kernel, run lane by lane on tiny shapes.

A block at a time; of all lanes those at the lowest instruction go on, so that they meet again behind a branch. Memory is checked:
an access outside of the arrays, beside its alignment, a shuffle whose mask names a lane that is elsewhere, a barrier that not all
reach end the run with the instruction's text. Arithmetic is IEEE's, fused where the PTX says fma; ex2.approx and the like are
rounded from double, so what depends on them agrees only nearly. Registers hold bits, as in hardware."""
import math
import re
import struct
from fractions import Fraction

WIDTH = {"8": 1, "16": 2, "32": 4, "64": 8}


class Fault(Exception):
    pass


def f32(x):
    """x, a double, rounded to float"""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def unpack(bits, kind, size):
    """bits as a number of a type"""
    bits &= (1 << 8 * size) - 1
    if kind == "f":
        return struct.unpack("<f" if size == 4 else "<d", bits.to_bytes(size, "little"))[0]
    if kind == "s" and bits >> (8 * size - 1):
        return bits - (1 << 8 * size)
    return bits


def pack(x, kind, size):
    if kind == "f":
        if size == 4:
            x = f32(x)
        return int.from_bytes(struct.pack("<f" if size == 4 else "<d", x), "little")
    return int(x) & ((1 << 8 * size) - 1)


def fma64(a, b, c):
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        return float(exact)
    except OverflowError:
        return math.copysign(math.inf, exact)


def fma32(a, b, c):
    """The product is exact in double; the sum is rounded to odd there, so that the second rounding is the only one."""
    p = a * b
    s = p + c
    if not math.isfinite(s):
        return f32(s)
    back = s - p
    error = (p - (s - back)) + (c - back)
    bits = struct.unpack("<q", struct.pack("<d", s))[0]
    if error != 0 and bits % 2 == 0:
        s = math.nextafter(s, math.copysign(math.inf, error))
    return f32(s)


def divide(a, b):
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def whole(a, b, kind):
    """C's quotient"""
    q = abs(a) // abs(b)
    return q if kind == "u" or (a < 0) == (b < 0) else -q


def to_nearest(x):
    return float(round(x)) if math.isfinite(x) and x else x  # Python rounds to even


class Kernel:
    """One entry of a module, decoded."""

    def __init__(self, text, name):
        found = re.search(r"\.entry (_Z\d+%s\w*|%s)\((.*?)\)(.*?)\n\{(.*?)\n\}" % (name, name), text, re.S)
        if not found:
            raise Fault("no kernel " + name)
        self.params, at = {}, 0
        for align, kind, p, n in re.findall(r"\.param (?:\.align (\d+) )?\.(\w+) (\w+)(?:\[(\d+)\])?", found[2]):
            size = int(n) if n else WIDTH[kind[1:]]
            align = int(align) if align else size
            at = (at + align - 1) // align * align
            self.params[p] = at
            at += size
        self.bytes = at
        self.shared, self.shared_bytes = {}, 0
        self.code, self.labels = [], {}
        for line in re.sub(r"//[^\n]*", "", text[:found.start()]).split("\n") + found[4].split("\n"):
            shared = re.match(r"\s*\.shared \.align (\d+) \.b8 ([\w$]+)\[(\d+)\]", line)
            if shared:
                align = int(shared[1])
                self.shared_bytes = (self.shared_bytes + align - 1) // align * align
                self.shared[shared[2]] = self.shared_bytes
                self.shared_bytes += int(shared[3])
        for line in found[4].split("\n"):
            line = re.sub(r"^\{ (.*;)\}$", r"\1", " ".join(line.split("//")[0].split()))  # inline PTX comes in braces
            if not line or line[0] in ".{}" and not line.endswith("};"):
                continue
            if line.endswith(":"):
                self.labels[line[:-1]] = len(self.code)
            else:
                self.code.append(self.decode(line.rstrip(";")))

    @staticmethod
    def decode(line):
        guard = re.match(r"@(!?)(%\w+) (.*)", line)
        text = guard[3] if guard else line
        op, _, rest = text.partition(" ")
        args = [a.strip() for a in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)]
        return (guard[2] if guard else None, bool(guard and guard[1]), op.split("."), args, line)


class Machine:
    """Memory: named arrays (bytearrays) at addresses of their own."""

    def __init__(self):
        self.arrays, self.next = [], 1 << 20

    def place(self, data):
        at = self.next
        self.arrays.append((at, data))
        self.next += (len(data) + 4095) // 4096 * 4096 + 4096
        return at

    def find(self, address, size, text):
        for at, data in self.arrays:
            if at <= address and address + size <= at + len(data):
                if address % size:
                    raise Fault("misaligned: " + text)
                return data, address - at
        raise Fault("out of bounds: " + text)

    def launch(self, kernel, grid, block, params):
        """grid: x or (x, y); params: the bytes of the arguments"""
        if len(params) != kernel.bytes:
            raise Fault("%d bytes of arguments, the kernel has %d" % (len(params), kernel.bytes))
        gx, gy = grid if isinstance(grid, tuple) else (grid, 1)
        for y in range(gy):
            for x in range(gx):
                Block(self, kernel, params, block, {"%ctaid.x": x, "%ctaid.y": y, "%nctaid.x": gx, "%nctaid.y": gy}).run()


class Block:
    def __init__(self, machine, kernel, params, n, special):
        self.machine, self.kernel, self.params, self.n = machine, kernel, params, n
        self.shared = bytearray(b"\xff" * kernel.shared_bytes)
        self.regs = [dict(special, **{"%tid.x": i, "%ntid.x": n, "%laneid": i % 32}) for i in range(n)]
        self.pc = [0] * n
        self.alive = set(range(n))

    # ---- operands ----

    def bits(self, lane, a):
        if a[0] == "%":
            if a not in self.regs[lane]:
                raise Fault("register %s is read before it is written" % a)
            return self.regs[lane][a]
        if a[:2] in ("0f", "0d"):
            return int(a[2:], 16)
        if a in self.kernel.shared:
            return self.kernel.shared[a]
        if a in self.kernel.params:
            return self.kernel.params[a]
        return int(a, 0) & (1 << 64) - 1

    def value(self, lane, a, t):
        if t == "pred":
            return bool(self.bits(lane, a))
        return unpack(self.bits(lane, a), t[0], WIDTH[t[1:]])

    def put(self, lane, a, x, t):
        if a != "_":
            self.regs[lane][a] = int(bool(x)) if t == "pred" else pack(x, t[0], WIDTH[t[1:]])

    # ---- running ----

    def run(self):
        code = self.kernel.code
        while self.alive:
            at = min(self.pc[i] for i in self.alive)
            here = [i for i in sorted(self.alive) if self.pc[i] == at]
            guard, inverted, op, args, text = code[at]
            if guard:
                go = [i for i in here if bool(self.regs[i][guard]) != inverted]
            else:
                go = here
            for i in here:
                self.pc[i] += 1
            try:
                self.step(op, args, go, text)
            except (KeyError, ZeroDivisionError, ValueError) as e:
                raise Fault("%s: %r" % (text, e)) from e

    def step(self, op, args, lanes, text):
        name = op[0]
        if name == "bra":
            for i in lanes:
                self.pc[i] = self.kernel.labels[args[0]]
        elif name == "ret":
            self.alive -= set(lanes)
        elif name in ("bar", "barrier"):
            if set(lanes) != self.alive:
                raise Fault("not all lanes are at a barrier: " + text)
        elif name == "shfl":
            self.shuffle(op, args, lanes, text)
        elif name in ("ld", "st"):
            for i in lanes:
                self.move(i, op, args, text)
        elif name == "mov" and "{" in text:
            for i in lanes:
                self.split(i, op, args)
        else:
            for i in lanes:
                self.compute(i, op, args, text)

    def move(self, lane, op, args, text):
        load, t = op[0] == "ld", op[-1]
        size = WIDTH[t[1:]]
        there, regs = (args[1], args[0]) if load else (args[0], args[1])
        base, offset = re.match(r"\[([^+\]]+)\+?(-?\d+)?\]", there).groups()
        regs = [r.strip() for r in regs.strip("{}").split(",")]
        offset = int(offset or 0)
        for k, r in enumerate(regs):
            at = offset + k * size
            if op[1] == "param":
                data, at = self.params, self.bits(lane, base) + at
                if at < 0 or at + size > len(data):
                    raise Fault("out of the arguments: " + text)
            elif op[1] == "shared":
                data, at = self.shared, self.bits(lane, base) + at
                if at < 0 or at + size > len(data):
                    raise Fault("out of shared memory: " + text)
            else:
                data, at = self.machine.find(self.bits(lane, base) + at, size, text)
            if load:
                x = unpack(int.from_bytes(data[at:at + size], "little"), "s" if t[0] == "s" else "u", size)
                self.regs[lane][r] = x & (1 << 64) - 1
            else:
                data[at:at + size] = (self.bits(lane, r) & (1 << 8 * size) - 1).to_bytes(size, "little")

    def split(self, lane, op, args):
        """mov between a register and a vector of halves"""
        size = WIDTH[op[-1][1:]] // 2
        if args[0][0] == "{":
            low, high = [a.strip() for a in args[0].strip("{}").split(",")]
            bits = self.bits(lane, args[1])
            self.regs[lane][low] = bits & (1 << 8 * size) - 1
            self.regs[lane][high] = bits >> 8 * size & (1 << 8 * size) - 1
        else:
            low, high = [a.strip() for a in args[1].strip("{}").split(",")]
            self.regs[lane][args[0]] = self.bits(lane, low) & (1 << 8 * size) - 1 | self.bits(lane, high) << 8 * size

    def shuffle(self, op, args, lanes, text):
        to, _, there = args[0].partition("|")
        got = {}
        for i in lanes:
            lane, first = i % 32, i - i % 32
            b, c, mask = (self.bits(i, a) & 0xffffffff for a in args[2:5])
            if not mask >> lane & 1:
                raise Fault("a lane is missing from its own mask: " + text)
            for k in range(32):
                if mask >> k & 1 and first + k in self.alive and first + k not in lanes:
                    raise Fault("a mask names a lane that is elsewhere: " + text)
            segment, clamp = c >> 8 & 31, c & 31
            low = lane & segment
            high = low | clamp & ~segment & 31
            j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | b & ~segment & 31}[op[2]]
            inside = j >= high if op[2] == "up" else j <= high
            j = j if inside else lane
            got[i] = (self.bits(first + j, args[1]) if first + j in lanes else 0xffffffff, inside)
        for i, (v, inside) in got.items():
            self.regs[i][to] = v & 0xffffffff
            if there:
                self.regs[i][there] = int(inside)

    def compute(self, i, op, args, text):
        name, t = op[0], op[-1]
        kind, size = t[0], 1 if t == "pred" else WIDTH[t[1:]]
        if name == "setp":
            x, y = self.value(i, args[1], t), self.value(i, args[2], t)
            unordered = kind == "f" and (math.isnan(x) or math.isnan(y))
            plain = op[1][:2] if kind == "f" and op[1].endswith("u") else op[1]
            order = {"eq": x == y, "ne": x != y and not unordered, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y,
                     "lo": x < y, "ls": x <= y, "hi": x > y, "hs": x >= y,
                     "nan": unordered, "num": not unordered}[plain]
            self.put(i, args[0], unordered if plain != op[1] and unordered else order, "pred")
        elif name == "cvt":
            self.convert(i, op, args)
        elif name == "prmt":
            pool = self.bits(i, args[1]) & 0xffffffff | (self.bits(i, args[2]) & 0xffffffff) << 32
            pick = self.bits(i, args[3])
            out = 0
            for k in range(4):
                sel = pick >> 4 * k & 15
                byte = pool >> 8 * (sel & 7) & 255
                out |= (255 * (byte >> 7) if sel & 8 else byte) << 8 * k
            self.put(i, args[0], out, "u32")
        elif name in ("mov", "cvta"):
            self.put(i, args[0], self.bits(i, args[1]), "u%d" % (8 * size) if t != "pred" else t)
        elif name == "selp":
            self.put(i, args[0], self.bits(i, args[1] if self.bits(i, args[3]) else args[2]), "u%d" % (8 * size))
        elif name in ("and", "or", "xor", "not", "shl", "shr"):
            self.bitwise(i, name, t, args)
        else:
            self.arithmetic(i, op, t, args, text)

    def bitwise(self, i, name, t, args):
        logic = t == "pred"
        u = t if logic else "u" + t[1:]
        if name == "shr":
            u = t if t[0] == "s" else u
        x = self.value(i, args[1], u)
        y = self.value(i, args[2], "u32" if name in ("shl", "shr") else u) if len(args) > 2 else 0
        if name in ("shl", "shr"):
            y = min(y, 64)
        r = {"and": lambda: x & y, "or": lambda: x | y, "xor": lambda: x ^ y, "not": lambda: not x if logic else ~x,
             "shl": lambda: x << y, "shr": lambda: x >> y}[name]()
        self.put(i, args[0], r, u)

    def arithmetic(self, i, op, t, args, text):
        name, kind = op[0], t[0]
        x, *more = [self.value(i, a, t) for a in args[1:]]
        y = more[0] if more else None
        z = more[1] if len(more) > 1 else None
        single = t == "f32"
        if name in ("mul", "mad") and kind != "f":
            p = x * y + (z if name == "mad" and "wide" not in op else 0)
            if "wide" in op:
                t = kind + str(2 * int(t[1:]))
                p += self.value(i, args[3], t) if name == "mad" else 0
            elif "hi" in op:
                p >>= int(t[1:])
            self.put(i, args[0], p, t)
            return
        nan = kind == "f" and y is not None and (math.isnan(x) or math.isnan(y))
        r = {"add": lambda: x + y, "sub": lambda: x - y, "mul": lambda: x * y,
             "div": lambda: divide(x, y) if kind == "f" else whole(x, y, kind),
             "rem": lambda: x - whole(x, y, kind) * y,
             "min": lambda: (y if math.isnan(x) else x) if nan else min(x, y),
             "max": lambda: (y if math.isnan(x) else x) if nan else max(x, y),
             "fma": lambda: self.fused(op, x, y, z) if single else fma64(x, y, z),
             "neg": lambda: -x, "abs": lambda: abs(x), "sqrt": lambda: math.sqrt(x) if x >= 0 else math.nan,
             "rcp": lambda: divide(1.0, x), "rsqrt": lambda: divide(1.0, math.sqrt(x)),
             "ex2": lambda: 2.0 ** x if x < 1024 else math.inf, "lg2": lambda: math.log2(x) if x > 0 else -math.inf}.get(name)
        if not r:
            raise Fault("unknown instruction: " + text)
        self.put(i, args[0], r(), t)

    @staticmethod
    def fused(op, x, y, z):
        if "rm" not in op:
            return fma32(x, y, z)
        exact = Fraction(x) * Fraction(y) + Fraction(z)  # towards minus infinity
        r = f32(float(exact))
        if Fraction(r) > exact:
            bits = pack(r, "f", 4)
            r = unpack(bits + (1 if r < 0 else -1), "f", 4)
        return r

    def convert(self, i, op, args):
        to, source = op[-2], op[-1]
        x = self.value(i, args[1], source)
        if to == "bf16":
            u = self.bits(i, args[1]) & 0xffffffff
            self.put(i, args[0], 0x7fff if math.isnan(x) else (u + 0x7fff + (u >> 16 & 1) >> 16) & 0xffff, "u16")
            return
        if to[0] == "f":
            if "rni" in op:
                x = to_nearest(x)
            if "sat" in op:
                x = 0.0 if math.isnan(x) else min(max(x, 0.0), 1.0)
            self.put(i, args[0], float(x), to)
            return
        if source[0] == "f":
            x = 0 if math.isnan(x) else x
            size = int(to[1:])
            low, high = (-(1 << size - 1), (1 << size - 1) - 1) if to[0] == "s" else (0, (1 << size) - 1)
            x = low if x <= low else high if x >= high else int(to_nearest(x)) if "rni" in op else math.floor(x) if "rmi" in op else int(x)
        self.put(i, args[0], x, to)
