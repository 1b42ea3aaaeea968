"""Run in a bare environment with the wheel installed: the core works, and what an extra is needed for says so."""

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

import sparseflow as sf

wheel, sdist = sys.argv[1:3]
with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
for wanted in ("sparseflow/py.typed", "sparseflow/lab/templates/", "sparseflow/paper/printed/claims.csv"):
    assert any(name.startswith(wanted) for name in names), f"{wanted} is not in the wheel"
with tarfile.open(sdist) as archive:
    sources = [member.name for member in archive if member.isfile()]
package = {name.split("/src/", 1)[1] for name in sources if "/src/" in name}
in_the_wheel = {name for name in names if ".dist-info/" not in name}
assert in_the_wheel == package, f"in one of sdist and wheel alone: {sorted(in_the_wheel ^ package)}"
for wanted in ("pyproject.toml", "LICENSE", "README.md", "requirements.lock", "tests/conftest.py", ".ci/core"):
    assert any(name.endswith(f"/{wanted}") for name in sources), f"{wanted} is not in the sdist"

needed = {
    line.split(">")[0].split(";")[0].strip() for line in metadata.requires("sparseflow") or [] if "extra" not in line
}
assert needed == {"torch", "numpy", "numba"}, needed
assert [point.name for point in metadata.entry_points(group="console_scripts") if "sparseflow" in point.value] == [
    "sparseflow"
]
assert metadata.version("sparseflow") == sf.__version__

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
masks = sf.random_masks(model, 0.9, seed=0)
sf.initialize_(model, masks, seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
sparsifier = sf.Sparsifier(model, optimizer, masks, sf.RigL(update_every=5, total_steps=40), seed=0)
for step in range(40):
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
    optimizer.step()
print(sparsifier.check())
sparse = sf.engine.convert(model, sparsifier.masks)
torch.testing.assert_close(sparse(x), model(x), atol=1e-5, rtol=1e-4)

# The command is there under both names, and tells what is installed.
for command in ([str(Path(sys.executable).with_name("sparseflow"))], [sys.executable, "-m", "sparseflow"]):
    told = subprocess.run([*command, "info"], capture_output=True, text=True, check=True).stdout
    for name in ("sparseflow", "torch", "numpy", "numba"):
        assert re.search(rf"^{name}: {re.escape(metadata.version(name))}", told, re.MULTILINE), told

# What needs an extra says which, in one sentence.
for extra, code in {
    "lab": "from sparseflow.data.digits import load_dataset; load_dataset('mnist-5k')",
    "vision": "from sparseflow.data.optional import optional; optional('PIL.Image')",
}.items():
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0, code
    assert f'pip install "sparseflow[{extra}]"' in last, last
