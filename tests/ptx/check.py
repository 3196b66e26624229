"""Kernels as nvcc compiled them, interpreted on tiny shapes, against the emulator: check.py PTX_DIR LIBSQ_EMU [NAME...]

The same bits are asked for, but where the device's expf is an approximation that the interpreter only imitates. TAP."""
import ctypes
import math
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))
import ptx  # noqa: E402

# in the order of struct sq_device_ops (sq/device.h)
OPS = ("gemm gemm_codes rmsnorm rmsnorm_grad rope swiglu swiglu_grad attention attention_grad add bias bias_grad adamw rowquant "
       "rowquant_grad rowquant_encode rowquant_search").split()
POINTER, I64, F64, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int


class Rowq(ctypes.Structure):
    _fields_ = [("bits", INT), ("sym", ctypes.c_bool), ("zero", ctypes.c_bool), ("group", I64), ("rate", F64)]


class Floats(ctypes.Structure):
    """struct sq_floats (sq/tensor.h), by value; an array of what is not float is bf16"""
    _fields_ = [("type", INT), ("x", POINTER)]


class To:
    """an array that an operation takes as struct sq_floats"""

    def __init__(self, array):
        self.array = array

    def at(self, place):
        return Floats(0 if self.array is None or self.array._type_ is ctypes.c_float else 2, place)


class Emulator:
    def __init__(self, path):
        lib = ctypes.CDLL(path)
        lib.sq_device_entry.restype = POINTER
        table = ctypes.cast(lib.sq_device_entry(), ctypes.POINTER(POINTER))
        # abi and size, name, count, open, close, info, four of memory, space, four copies, three of marks, sync, four of recordings, error, clear, ops
        self.call(table[3], INT, ctypes.byref(gpu := POINTER()), INT(0), ctypes.create_string_buffer(256), I64(256))
        self.gpu, self.alloc, self.free, self.put, self.get, self.sync = gpu, table[6], table[8], table[11], table[12], table[18]
        self.ops = ctypes.cast(table[25], ctypes.POINTER(POINTER))
        self.call(table[10], INT, gpu, I64(1 << 20))

    @staticmethod
    def call(address, result, *args):
        return ctypes.CFUNCTYPE(result, *[type(a) if not hasattr(a, "_obj") else POINTER for a in args])(address)(*args)

    def place(self, array):
        p = POINTER()
        if self.call(self.alloc, INT, self.gpu, ctypes.byref(p), ctypes.c_size_t(ctypes.sizeof(array))) != 0:
            raise MemoryError("the emulator has no memory")
        return p

    def move(self, how, to, source, array):
        self.call(how, None, self.gpu, INT(0), to, source, ctypes.c_size_t(ctypes.sizeof(array)))

    def run(self, op, *args):
        """arrays go to the device's memory and come back; structs are read by the host"""
        wrapped, args = args, [a.array if isinstance(a, To) else a for a in args]
        places = {i: self.place(a) for i, a in enumerate(args) if isinstance(a, ctypes.Array)}
        for i, p in places.items():
            self.move(self.put, p, POINTER(ctypes.addressof(args[i])), args[i])
        passed = [places.get(i, POINTER(ctypes.addressof(a)) if isinstance(a, ctypes.Structure) else a) for i, a in enumerate(args)]
        passed = [w.at(p) if isinstance(w, To) else p for w, p in zip(wrapped, passed)]
        self.call(self.ops[OPS.index(op)], None, self.gpu, *passed)
        for i, p in places.items():
            self.move(self.get, POINTER(ctypes.addressof(args[i])), p, args[i])
        if self.call(self.sync, INT, self.gpu) != 0:
            raise RuntimeError("the emulator failed on " + op)
        for p in places.values():
            self.call(self.free, None, self.gpu, p)


def floats(values):
    return (ctypes.c_float * len(values))(*values)


def wave(n, seed):
    """numbers without a pattern, exact as floats"""
    return [ptx.f32(math.sin(0.37 * i + seed) * (1 + (i * 7 + seed) % 5)) for i in range(n)]


def outputs(n):
    """as f32, as bf16"""
    return floats([0] * n), (ctypes.c_uint16 * n)()


def to_struct(name, array):
    """struct gpu_floats (gpu.h) with the address of an array of that name, or without one"""
    if array is None:
        return lambda places: struct.pack("<Q?7x", 0, False)
    return lambda places: struct.pack("<Q?7x", places[name], array._type_ is not ctypes.c_float)


class Case:
    """Arrays of both sides; the kernel's arguments are packed in order."""

    def __init__(self, emulator, modules):
        self.emu, self.modules = emulator, modules

    def run(self, module, kernel, grid, block, arrays, args, emulate, nearly=0.0):
        """arrays: name -> ctypes array; args: of the kernel, names of arrays, (format, number), or what makes the bytes of a struct
        from the arrays' addresses; emulate(arrays) runs the other"""
        machine = ptx.Machine()
        copies = {k: bytearray(bytes(v)) for k, v in arrays.items()}
        places = {k: machine.place(v) for k, v in copies.items()}
        packed = b""
        for a in args:
            data = a(places) if callable(a) else struct.pack("<Q", places[a]) if isinstance(a, str) else struct.pack("<" + a[0], a[1])
            packed += b"\0" * (-len(packed) % min(len(data), 8)) + data
        k = ptx.Kernel(self.modules[module], kernel)
        machine.launch(k, grid, block, packed)
        emulate(arrays)
        for name, v in arrays.items():
            self.compare(kernel, name, bytes(v), bytes(copies[name]), nearly)

    @staticmethod
    def compare(kernel, name, want, got, nearly):
        if want == got:
            return
        for i in range(len(want) // 4):
            a, b = (struct.unpack_from("<f", x, 4 * i)[0] for x in (want, got))
            if want[4 * i:4 * i + 4] != got[4 * i:4 * i + 4] and not abs(a - b) <= nearly * abs(a):
                raise AssertionError("%s: %s[%d] is %r by the emulator, %r by the PTX" % (kernel, name, i, a, b))


def rows_struct(q, u, l, rows, cols):
    """struct warp_rows (rowquant_warp.h) with addresses u, l"""
    groups = (cols - 1) // q.group + 1 if q.group else 1
    n = groups if q.group else cols
    covered = min(n, math.ceil(q.rate * n - 1e-9))
    return bytes(q) + struct.pack("<QQqqqq", u, l, rows, cols, groups, covered)


def check_add(c):
    n = 70
    a = {"y": floats(wave(n, 1)), "x": floats(wave(n, 2))}
    c.run("elem", "add_elements", 1, 256, a, ["y", "x", ("q", n)], lambda a: c.emu.run("add", a["y"], a["x"], I64(n)))


def check_bias(c):
    a = {"y": floats(wave(21, 1)), "b": floats(wave(7, 2))}
    c.run("elem", "bias_elements", 1, 256, a, ["y", "b", ("q", 21), ("q", 7)],
          lambda a: c.emu.run("bias", a["y"], a["b"], I64(3), I64(7)))


def check_rope(c):
    rows, tokens, heads, dim = 4, 2, 3, 6
    for inverse, y in zip((False, True), outputs(rows * heads * dim)):
        a = {"y": y, "x": floats(wave(rows * heads * dim, 1)), "c": floats(wave(tokens * dim // 2, 2)), "s": floats(wave(tokens * dim // 2, 3))}
        c.run("elem", "rope_pairs", 1, 256, a,
              [to_struct("y", y), "x", "c", "s", ("q", rows * heads * dim // 2), ("q", tokens), ("q", heads), ("q", dim), ("?", inverse)],
              lambda a: c.emu.run("rope", To(a["y"]), a["x"], a["c"], a["s"], I64(rows), I64(tokens), I64(heads), I64(dim), ctypes.c_bool(inverse)))


def check_swiglu(c):
    n = 40
    a = {"y": floats([0] * n), "g": floats(wave(n, 1)), "u": floats(wave(n, 2))}
    c.run("elem", "swiglu_elements", 1, 256, a, [to_struct("y", a["y"]), "g", "u", ("q", n)],
          lambda a: c.emu.run("swiglu", To(a["y"]), a["g"], a["u"], I64(n)), nearly=1e-6)


def check_swiglu_grad(c):
    n = 40
    for y in None, floats([0] * n):
        a = {"dg": floats([0] * n), "du": floats([0] * n), "d": floats(wave(n, 3)), "g": floats(wave(n, 1)), "u": floats(wave(n, 2))}
        if y:
            a["y"] = y
        c.run("elem", "swiglu_grad_elements", 1, 256, a,
              [to_struct("dg", a["dg"]), to_struct("du", a["du"]), to_struct("y", y), "d", "g", "u", ("q", n)],
              lambda a: c.emu.run("swiglu_grad", To(a["dg"]), To(a["du"]), To(a.get("y")), a["d"], a["g"], a["u"], I64(n)),
              nearly=1e-5)


def check_adamw(c):
    n, step, lr = 33, 3, 1e-3
    a = {"x": floats(wave(n, 1)), "m": floats(wave(n, 2)), "v": floats([v * v for v in wave(n, 3)]), "g": floats(wave(n, 4))}
    root2, rate = math.sqrt(1 - math.pow(0.999, step)), lr / (1 - math.pow(0.9, step))
    c.run("elem", "adamw_elements", 1, 256, a, ["x", "m", "v", "g", ("q", n), ("d", root2), ("d", rate)],
          lambda a: c.emu.run("adamw", a["x"], a["m"], a["v"], a["g"], I64(n), I64(step), F64(lr)))


def check_rmsnorm(c):
    rows, n, ldx, ldy = 5, 37, 40, 38
    for y in outputs(rows * ldy):
        a = {"y": y, "r": floats([0] * rows), "x": floats(wave(rows * ldx, 1)), "g": floats(wave(n, 2))}
        c.run("norm", "rmsnorm_rows", 2, 128, a,
              [to_struct("y", y), ("q", ldy), "r", "x", ("q", ldx), "g", ("d", 1e-5), ("q", rows), ("q", n)],
              lambda a: c.emu.run("rmsnorm", To(a["y"]), I64(ldy), a["r"], a["x"], I64(ldx), a["g"], F64(1e-5), I64(rows), I64(n)))


def check_rmsnorm_grad(c):
    rows, n = 3, 45
    for add in (False, True):
        a = {"d": floats(wave(rows * n, 5)), "e": floats(wave(rows * n, 1)), "x": floats(wave(rows * n, 2)),
             "r": floats(wave(rows, 3)), "g": floats(wave(n, 4))}
        c.run("norm", "rmsnorm_grad_rows", 1, 128, a,
              ["d", ("q", n), ("?", add), "e", ("q", n), "x", ("q", n), "r", "g", ("q", rows), ("q", n)],
              lambda a: c.emu.run("rmsnorm_grad", a["d"], I64(n), ctypes.c_bool(add), POINTER(), a["e"], I64(n), a["x"], I64(n),
                                  a["r"], a["g"], I64(rows), I64(n)))


def quantizers():
    """(quantizer, columns)"""
    return [(Rowq(2, False, True, 0, 1.0), 40), (Rowq(4, True, False, 0, 0.5), 33), (Rowq(3, False, False, 16, 1.0), 40),
            (Rowq(16, False, False, 0, 1.0), 10)]


def check_rowquant(c):
    rows = 3
    for q, cols in quantizers():
        groups = rows * ((cols - 1) // q.group + 1 if q.group else 1)
        for y in outputs(rows * cols):
            a = {"y": y, "z": floats(wave(rows * cols, 1)), "u": floats(wave(groups, 2)), "l": floats(wave(groups, 3))}
            c.run("rowquant", "rowquant_groups", (groups + 3) // 4, 128, a,
                  [to_struct("y", y), "z", lambda places: rows_struct(q, places["u"], places["l"], rows, cols)],
                  lambda a: c.emu.run("rowquant", To(a["y"]), a["z"], q, a["u"], a["l"], I64(rows), I64(cols)))


def lattice():
    """struct rq_lattice: places 1 to 160 of u, then of sigma(u)"""
    u = [0.0] + [8.0 if i == 160 else ptx.f32(math.log((i / 160) / (1 - i / 160))) for i in range(1, 161)]
    return struct.pack("<322f", *u, 0.0, *[1.0 / (1.0 + math.exp(-x)) for x in u[1:]])


def check_rowquant_search(c):
    for q, rows, cols in ((Rowq(2, False, True, 0, 1.0), 2, 7), (Rowq(3, True, False, 16, 1.0), 1, 40)):
        groups = rows * ((cols - 1) // q.group + 1 if q.group else 1)
        a = {"u": floats([0] * groups), "l": floats([0] * groups), "z": floats(wave(rows * cols, 1)),
             "w": floats([abs(v) for v in wave(cols, 2)])}
        c.run("rowquant", "rowquant_search_groups", groups, 128, a,
              ["u", "l", lambda places: struct.pack("<Q?7x", places["z"], False), "w",
               lambda _: rows_struct(q, 0, 0, rows, cols), lambda _: lattice()],
              lambda a: c.emu.run("rowquant_search", a["u"], a["l"], a["z"], INT(0), a["w"], q, I64(rows), I64(cols)))


def main():
    modules = {name: open(os.path.join(sys.argv[1], name + ".ptx"), encoding="utf-8").read() for name in ("elem", "norm", "rowquant")}
    case = Case(Emulator(sys.argv[2]), modules)
    checks = [(k[6:], f) for k, f in globals().items() if k.startswith("check_") and (len(sys.argv) < 4 or k[6:] in sys.argv[3:])]
    failed = 0
    print("1..%d" % len(checks))
    for i, (name, f) in enumerate(checks, 1):
        try:
            f(case)
            print("ok %d - %s" % (i, name), flush=True)
        except (ptx.Fault, AssertionError) as e:
            failed += 1
            print("not ok %d - %s\n# %s" % (i, name, e), flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
