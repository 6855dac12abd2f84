"""Killed processes and failed writes never damage the version that is served."""

import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from export.artifact.staging_test import assert_whole, start_writer, wait_for_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PUBLISHER = """
    import sys
    from keras_attention.export.verification import verify
    from keras_attention.export.deployment import versions
    # Other tests run artifacts: here the cases always agree.
    agreed = verify.CaseResult("s", "c", "r", 0.0, 0.0, 1e-5, True, "")
    verify.verify_folder = lambda folder, **settings: verify.Report(
        folder, (agreed,)
    )
    print("ready", flush=True)
    versions.publish(sys.argv[1], sys.argv[2])
    print("published", flush=True)
"""

EXPORTER = """
    import resource, signal, sys
    from pathlib import Path
    import keras_attention as ka

    model = ka.BertEncoder(97, num_layers=1, num_heads=2, hidden_dim=16,
                           intermediate_dim=32)
    base, format = Path(sys.argv[1]), sys.argv[2]
    whole = ka.export_model(model, base / "1", format=format)
    print("ready", flush=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for offset in map(int, sys.argv[3:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (offset, hard))
        try:
            ka.export_model(model, base / "2", format=format)
            print(offset, "written", flush=True)
        except Exception as error:
            print(offset, type(error).__name__, str(error).replace("\\n", " "),
                  flush=True)
        names = sorted(path.name for path in base.iterdir())
        assert names == ["1"], names
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert ka.verify_artifact(base / "1").passed
    ka.export_model(model, base / "2", format=format)
    print("and then whole", flush=True)
"""


def program(source, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_200_killed_exporters_show_nothing_or_a_whole_version(
    tmp_path, record_property
):
    rng, outcomes, served = random.Random(3), [], tmp_path / "1"
    start_writer(served, pause=0).communicate(timeout=60)
    assert_whole(served)
    for number in range(2, 202):
        final = tmp_path / str(number)
        writer = start_writer(final, pause=0.001)
        assert writer.stdout.readline() == "ready\n"
        wait_for_files(final, rng.randrange(21 * number))
        time.sleep(rng.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=20)
        outcomes.append(final.exists())
        for version in tmp_path.glob("[0-9]*"):
            assert_whole(version)
    record_property(
        "summary", f"200 exporters killed, {sum(outcomes)} after they had published"
    )
    assert 0 < sum(outcomes) < 200


def test_200_killed_publishers_lose_neither_source_nor_versions(
    tmp_path, record_property
):
    from export.deployment.versions_test import artifact

    source, base = artifact(tmp_path / "built", "xyz"), tmp_path / "served"
    wanted = {
        path.relative_to(source): path.read_bytes()
        for path in source.rglob("*")
        if path.is_file()
    }
    rng, published = random.Random(5), 0
    publisher = program(PUBLISHER, source, base)
    assert publisher.stdout.readline() == "ready\n"
    start = time.perf_counter()
    assert publisher.stdout.readline() == "published\n"
    seconds = time.perf_counter() - start  # it depends on what else runs
    publisher.communicate(timeout=20)
    for _ in range(200):
        publisher = program(PUBLISHER, source, base)
        assert publisher.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 2 * seconds))
        publisher.send_signal(signal.SIGKILL)
        publisher.communicate(timeout=20)
        versions = list(base.glob("[0-9]*")) if base.exists() else []
        for folder in (source, *versions[-3:]):
            for name, content in wanted.items():
                assert (folder / name).read_bytes() == content
        published = len(versions) - 1
    record_property("summary", f"200 publishers killed, {published} had published")
    assert 0 < published < 200, seconds


@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_writes_that_fail_at_20_offsets_leave_the_served_version(
    tmp_path, format, record_property
):
    rng = random.Random(11)
    offsets = sorted({0, 1, *(int(10 ** rng.uniform(0.5, 4.2)) for _ in range(18))})
    exporter = program(EXPORTER, tmp_path / "served", format, *offsets)
    output, error = exporter.communicate(timeout=900)
    lines = output.splitlines()
    assert exporter.returncode == 0, error[-3000:]
    assert lines[0] == "ready"
    assert lines[-1] == "and then whole"
    assert len(lines) == len(offsets) + 2
    for line in lines[1:-1]:
        assert "There is no space left to write the artifact" in line, line
    record_property("summary", f"{format}: writes failed at {len(offsets)} offsets")
