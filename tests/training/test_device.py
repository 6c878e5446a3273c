"""Which device and precision a run gets, and what is refused."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
import torch

from gnn_moe.cli import main
from gnn_moe.errors import BadInput
from gnn_moe.training import device as devices
from gnn_moe.training.device import accelerator_for, computes_bf16, resolve_device, resolve_precision
from tests.small_runs import Setting, read_json

CPU = torch.device("cpu")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(BadInput, match=r"^--device cuda:2 is not on this machine: use --device cpu, or auto"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


@needs_no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "meta"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(BadInput, match=rf"^--device {name} is not on this machine: use --device cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "1", "cpu cpu"])
def test_a_name_that_is_no_device(name: str) -> None:
    with pytest.raises(BadInput, match=r"is not a device: use auto, cpu, cuda or cuda:1"):
        resolve_device(name)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_precision_follows_the_processor(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert computes_bf16(CPU) is has_bf16
    assert resolve_precision("auto", CPU) == ("bf16" if has_bf16 else "fp32")
    assert resolve_precision("fp32", CPU) == "fp32"
    if has_bf16:
        assert resolve_precision("bf16", CPU) == "bf16"
        return
    with pytest.raises(BadInput, match=r"^--precision bf16: the cpu of this machine has no bf16 products; use fp32"):
        resolve_precision("bf16", CPU)


def test_bf16_on_a_gpu_is_its_own_not_an_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert computes_bf16(torch.device("cuda")) is False
    assert computes_bf16(torch.device("mps")) is False


def test_bf16_is_refused_before_anything_is_written(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "computes_bf16", lambda device: False)
    assert main(setting.flags("it", precision="bf16")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--precision bf16" in error
    assert not setting.runs.exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_computes_in_the_precision_that_it_records(precision: str, setting: Setting) -> None:
    if precision == "bf16" and not computes_bf16(CPU):
        pytest.skip("this processor has no bf16 products")
    assert main(setting.flags("it", precision=precision)) == 0
    assert read_json(setting.runs / "it" / "environment.json")["precision"] == precision


def test_the_processor_may_be_numbered(setting: Setting) -> None:
    """torch knows cpu:0; it is the processor."""
    assert resolve_device("cpu:0") == CPU
    assert main(setting.flags("it", device="cpu:0", epochs=1)) == 0


def test_accelerate_keeps_nothing_between_runs() -> None:
    for precision, mixed in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        if precision == "bf16" and not computes_bf16(CPU):
            continue
        with accelerator_for("cpu", precision) as accelerator:
            assert accelerator.mixed_precision == mixed
            assert accelerator.device == CPU


def test_peak_memory_is_that_of_the_process() -> None:
    found = devices.peak_memory_bytes(CPU)
    assert 50 * 2**20 < found < 2**40
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        assert found == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)


def test_the_processor_is_named_as_the_system_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processors = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "Path", lambda path: processors)
    monkeypatch.setattr(platform, "processor", lambda: "x86_64")
    assert devices.describe_device(CPU) == "x86_64"
    processors.write_text(
        "processor\t: 0\nmodel name\t: Fast (R) 9: 2 GHz\n\nmodel name\t: another\n", encoding="utf-8"
    )
    for has_amx, name in ((False, "Fast (R) 9: 2 GHz"), (True, "Fast (R) 9: 2 GHz with AMX")):
        monkeypatch.setattr(devices, "_computes_with_amx", lambda has_amx=has_amx: has_amx)
        assert devices.describe_device(CPU) == name
