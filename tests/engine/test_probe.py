"""The probe of a CPU: measured once, kept under all that identifies it, decided with a margin."""

import json
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from cctkit.engine import probe
from cctkit.engine.probe import Probe, cpu_id, cpu_name, faster, known_probe, probe_key

ANSWER = Probe(precision="float32", attention="fused", attention_with_dropout="chunked")
ENTRY = {"precision": "float32", "attention": "fused", "attention_with_dropout": "chunked"}


def test_it_measures_once_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    assert known_probe() is None
    first = probe.probe()
    assert first.precision in ("float32", "bf16")
    assert first.attention_with_dropout in ("plain", "chunked")
    assert len(json.loads((tmp_path / "probe.json").read_text())) == 1
    monkeypatch.setattr(probe, "measure", lambda: pytest.fail("measured again"))
    assert probe.probe() == known_probe() == first


@pytest.mark.parametrize("content", ["", "{", "[]", pytest.param("[" * 100_000, id="deep"), '{"x": 1}'])
def test_a_spoilt_memory_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(probe, "measure", lambda: ANSWER)
    (tmp_path / "probe.json").write_text(content)
    assert probe.probe() == ANSWER
    assert known_probe() == ANSWER


@pytest.mark.parametrize(
    "entry",
    [None, [], {}, ENTRY | {"precision": "int8"}, ENTRY | {"attention": "fast"}, ENTRY | {"attention_with_dropout": "fused"}],
    ids=str,
)
def test_an_answer_that_may_not_be_is_measured_anew(entry: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(probe, "measure", lambda: ANSWER)
    (tmp_path / "probe.json").write_text(json.dumps({probe_key(): entry, "of another": ENTRY}))
    assert known_probe() is None
    assert probe.probe() == ANSWER
    assert json.loads((tmp_path / "probe.json").read_text()) == {probe_key(): ENTRY, "of another": ENTRY}


@pytest.mark.parametrize(
    ("seconds", "choice"),
    [
        ({"float32": 1.0, "bf16": 0.5}, "bf16"),
        ({"float32": 1.0, "bf16": 0.9}, "bf16"),
        ({"float32": 1.0, "bf16": 0.92}, "float32"),
        ({"float32": 1.0, "bf16": 1.0}, "float32"),
        ({"float32": 1.0, "bf16": 2.0}, "float32"),
        ({"plain": 2.0, "fused": 3.0, "chunked": 1.0}, "chunked"),
        ({"plain": 0.95, "fused": 0.93, "chunked": 1.0}, "chunked"),
        ({"plain": 0.95, "fused": 0.8, "chunked": 1.0}, "fused"),
        ({"plain": 0.7, "fused": 0.8, "chunked": 1.0}, "plain"),
        ({"plain": 0.7, "chunked": 1.0}, "plain"),
    ],
)
def test_another_way_than_the_usual_has_to_be_a_tenth_faster(seconds: dict[str, float], choice: str) -> None:
    assert faster(seconds, usual="chunked" if "chunked" in seconds else "float32") == choice


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # float32, bf16; plain, fused, chunked; with dropout plain, chunked
        ([2, 1, 9, 2, 3, 9, 3], Probe(precision="bf16", attention="fused", attention_with_dropout="chunked")),
        ([1, 2, 1, 2, 3, 1, 3], Probe(precision="float32", attention="plain", attention_with_dropout="plain")),
        ([1, 1, 3, 3, 3, 3, 3], Probe(precision="float32", attention="chunked", attention_with_dropout="chunked")),
    ],
)
def test_the_decision_is_of_the_measured_seconds_alone(
    seconds: list[float], expected: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own kernel is not measured with dropout: see `test_device`."""
    rest = chain(seconds, repeat(None))
    monkeypatch.setattr(probe, "_seconds", lambda _: next(rest))
    assert probe.measure() == expected
    assert next(rest) is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_measuring_leaves_torchs_generator_alone_whatever_the_callers_mode(mode: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_seconds", lambda run: float(run() is not run))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with mode():
        probe.measure()
    assert torch.equal(torch.rand(3), expected)


X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: {model}
model name\t: AMD EPYC
stepping\t: 1
cpu MHz\t\t: {mhz}
flags\t\t: {flags}

processor\t: 1
vendor_id\t: Another
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd {flags}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: 0xd40
CPU revision\t: 1
"""
ZEN_5 = X86.format(family=26, model=2, mhz=2700, flags="fpu avx2 avx512f avx512_bf16")


def test_processors_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that call themselves "AMD EPYC", one of them with a flag masked by a hypervisor, and two of Arm's."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(probe, "_CPUINFO", file)
    texts = [
        ZEN_5,
        X86.format(family=25, model=17, mhz=2700, flags="fpu avx2 avx512f avx512_bf16"),
        X86.format(family=25, model=1, mhz=2700, flags="fpu avx2"),
        X86.format(family=26, model=2, mhz=2700, flags="fpu avx2 avx512f"),
        ARM.format(flags="sve", variant="0x1"),
        ARM.format(flags="sve bf16", variant="0x1"),
        ARM.format(flags="sve", variant="0x2"),
    ]
    keys, ids = [], []
    for text in texts:
        file.write_text(text)
        ids.append(cpu_id())
        keys.append(probe_key())
        if text.startswith(X86[:20]):
            assert cpu_name() == "AMD EPYC"
    assert len(set(keys)) == len(set(ids)) == len(texts)
    assert ids[0].startswith("AuthenticAMD 26 2 1 ")


def test_a_processors_clock_and_the_order_of_its_flags_are_not_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(probe, "_CPUINFO", file)
    file.write_text(ZEN_5)
    expected = cpu_id()
    file.write_text(X86.format(family=26, model=2, mhz=3100, flags="avx2 avx512_bf16 avx512f fpu"))
    assert cpu_id() == expected


def test_without_cpuinfo_platform_and_torch_tell_and_torchs_choice_of_kernels_and_threads_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_CPUINFO", tmp_path / "none")
    for name, value in (("system", "Darwin"), ("machine", "arm64"), ("processor", "arm")):
        monkeypatch.setattr(f"platform.{name}", lambda value=value: value)
    keys = set()
    for capability in ("DEFAULT", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert cpu_id() == f"Darwin arm64 arm, {capability}"
        for threads in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            keys.add(probe_key())
    assert len(keys) == 4
