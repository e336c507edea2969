"""CUDA kernels from their source, compiled by the NVRTC that torch brings along: no compiler need be installed.

They are launched through the driver's own library. Nothing asks about the addresses that a kernel is given, so they can
be captured in CUDA graphs under any allocator.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch


class Kernel:
    """A kernel of a module that is loaded for one device.

    Parameters
    ----------
    function : ctypes.c_void_p
        The driver's handle.
    signature : str
        Of its parameters, as `struct` has them: P pointer, i int, q long long, f float.
    """

    def __init__(self, function: ctypes.c_void_p, signature: str) -> None:
        self.function = function
        self.signature = signature
        self.offsets = [struct.calcsize(signature[: i + 1]) - struct.calcsize(kind) for i, kind in enumerate(signature)]
        self.pointers = ctypes.c_void_p * len(signature)
        self.launch = driver().cuLaunchKernel

    def __call__(self, grid: tuple[int, int], threads: int, shared: int, *values: float) -> None:
        """Launch it on torch's current stream.

        Parameters
        ----------
        grid : (int, int)
            Blocks in x and y.
        threads : int
            Of a block.
        shared : int
            Bytes of dynamic shared memory.
        *values : int or float
            The parameters; addresses for pointers, 0 for none.
        """
        packed = ctypes.create_string_buffer(struct.pack(self.signature, *values))
        base = ctypes.addressof(packed)
        pointers = self.pointers(*[base + offset for offset in self.offsets])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        checked(self.launch(self.function, *grid, 1, threads, 1, 1, shared, stream, pointers, None))


def kernels(
    source: str, signatures: dict[str, str], defines: dict[str, int], device: torch.device
) -> dict[str, Kernel]:
    """Compile a source for a device, and load it there.

    Parameters
    ----------
    source : str
        CUDA C++ without headers; kernels are ``extern "C"``.
    signatures : dict of str to str
        Of each kernel, see `Kernel`.
    defines : dict of str to int
        Macros.
    device : torch.device
        A CUDA device.

    Returns
    -------
    dict of str to Kernel

    Raises
    ------
    OSError
        Where there is no NVRTC, or no driver.
    RuntimeError
        When the source cannot be compiled or loaded, with what the compiler says.
    """
    major, minor = torch.cuda.get_device_capability(device)
    options = [f"--gpu-architecture=sm_{major}{minor}", *(f"-D{name}={value}" for name, value in defines.items())]
    binary = compiled(source, options)
    with torch.cuda.device(device):
        torch.empty(1, device=device)  # the device's context is there and current
        module = ctypes.c_void_p()
        checked(driver().cuModuleLoadData(ctypes.byref(module), binary))
        return {name: Kernel(function_of(module, name), signature) for name, signature in signatures.items()}


def function_of(module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
    function = ctypes.c_void_p()
    checked(driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
    return function


def compiled(source: str, options: Sequence[str]) -> bytes:
    """The binary that NVRTC makes of a source; `RuntimeError` with its log where it cannot."""
    nvrtc, program = compiler(), ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"hierdiff.cu", 0, None, None)
    if created:
        raise RuntimeError(f"NVRTC takes no program (error {created})")
    try:
        given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        if nvrtc.nvrtcCompileProgram(program, len(options), given):
            log = text_of(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise RuntimeError(f"NVRTC cannot compile: {log.decode(errors='replace').strip()}")
        return text_of(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def text_of(size_of: Any, write: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    write(program, text)
    return text.raw


@cache
def compiler() -> ctypes.CDLL:
    """NVRTC, as torch brings it along."""
    version = (torch.version.cuda or "0").split(".")[0]
    names = [f"nvrtc64_{version}0_0.dll"] if sys.platform == "win32" else [f"libnvrtc.so.{version}", "libnvrtc.so"]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"there is no {names[0]}")


@cache
def driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def checked(result: int) -> None:
    """`RuntimeError` for a result of the driver that is not 0."""
    if result:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"CUDA driver: {(text.value or b'unknown error').decode()} ({result})")
