"""The CUDA source of the fused kernels as C++ for the CPU: the threads of a block are threads, blocks take turns."""

import ctypes
import subprocess
from pathlib import Path

from hierdiff_core.kandinsky.fused_kernels import SIGNATURES, SOURCE

BEFORE = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>
#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __forceinline__ inline
struct Index { int x, y; };
static thread_local Index threadIdx;
static Index blockIdx, blockDim, gridDim;
static std::barrier<> *together;
static float shared_memory[1 << 16];
static void __syncthreads() { together->arrive_and_wait(); }
static float inverse_root(float x) { return 1.0f / std::sqrt(x); }
template <class To, class From> static To same_bits(From x) { To y; std::memcpy(&y, &x, sizeof y); return y; }
#define rsqrtf inverse_root
#define __expf std::exp
#define __uint_as_float same_bits<float, unsigned int>
#define __float_as_uint same_bits<unsigned int, float>
using std::min;
template <class Kernel> void each_block(int across, int down, int threads, Kernel kernel) {
    std::barrier<> all(threads);
    together = &all, blockDim = {threads, 1}, gridDim = {across, down};
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) pool.emplace_back([=, &all] {
        threadIdx = {t, 0};
        for (int y = 0; y < down; ++y) for (int x = 0; x < across; ++x) {
            all.arrive_and_wait();
            if (t == 0) blockIdx = {x, y};
            all.arrive_and_wait();
            kernel();
        }
    });
    for (auto &thread : pool) thread.join();
}
"""
INSTEAD = {
    "extern __shared__ float shared[];": "float *shared = shared_memory;",
    'asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));': "y = (float)same_bits<_Float16, number>(x);",
    'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));': "y = same_bits<number, _Float16>((_Float16)x);",
}
C_TYPES = {"P": "void *", "i": "int", "q": "long long", "f": "float"}
CTYPES = {"P": ctypes.c_void_p, "i": ctypes.c_int, "q": ctypes.c_longlong, "f": ctypes.c_float}


def emulated(folder: Path, width: int, bfloat16: int) -> dict:
    """The kernels by name, each called as `nvrtc.Kernel` is, with addresses of tensors on the CPU."""
    source = SOURCE.read_text(encoding="utf-8")
    for there, here in INSTEAD.items():
        assert there in source
        source = source.replace(there, here)
    file, library = folder / "kernels.cpp", folder / "kernels.so"
    defines = f"#define WIDTH {width}\n#define BFLOAT16 {bfloat16}\n"
    file.write_text(defines + BEFORE + source + "".join(map(entry, SIGNATURES)), encoding="utf-8")
    command = ["g++", "-std=c++20", "-fpermissive", "-w", "-shared", "-fPIC", "-pthread", str(file), "-o", str(library)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    return {name: caller(loaded[f"run_{name}"], SIGNATURES[name]) for name in SIGNATURES}


def entry(name: str) -> str:
    """A C function that runs a kernel's blocks."""
    kinds = SIGNATURES[name]
    parameters = ", ".join(f"{C_TYPES[kind]} p{i}" for i, kind in enumerate(kinds))
    values = ", ".join(f"(number *)p{i}" if kind == "P" else f"p{i}" for i, kind in enumerate(kinds))
    values = values.replace("(number *)p3", "(float *)p3") if name in ("group_moments", "group_apply") else values
    values = values.replace("(number *)p2", "(float *)p2") if name == "spatial_apply" else values
    call = f"each_block(across, down, threads, [=] {{ {name}({values}); }});"
    return f'extern "C" void run_{name}(int across, int down, int threads, {parameters}) {{ {call} }}\n'


def caller(function, signature):
    def launch(grid, threads, shared, *values):
        assert shared <= 48 * 1024  # what a block may have without asking
        assert threads <= 1024
        assert len(values) == len(signature)
        function(*grid, threads, *(CTYPES[kind](value) for kind, value in zip(signature, values, strict=True)))

    return launch
