"""timm's model, optimizer, scheduler, EMA and checkpoints around a sparse network, trained on real digits."""

import importlib.util
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import sparseflow as sf
from sparseflow.data.digits import load_dataset

EPOCHS, BATCHES = 2, 40


def main(folder: Path) -> None:
    """Train half of the run, go on from the checkpoint as another process would, compare network and EMA."""
    import timm
    from timm.models import load_checkpoint, resume_checkpoint
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import CheckpointSaver, ModelEmaV3

    digits = load_dataset("mnist-5k")
    images, labels = digits.train_images, digits.train_labels

    def train(start: Path | None, epochs: int) -> SimpleNamespace:
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
        masks = sf.random_masks(model, 0.9, allocation="erk", seed=0)
        sf.initialize_(model, masks, scheme="sparse", seed=0)
        optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4)
        scheduler, _ = create_scheduler_v2(
            optimizer, sched="cosine", num_epochs=EPOCHS, step_on_epochs=False, updates_per_epoch=BATCHES
        )
        method = sf.RigL(update_every=10, total_steps=EPOCHS * BATCHES, schedule="cosine")
        sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)

        ema = ModelEmaV3(model, decay=0.9)
        # Masks move, and an average of old and new ones is zero only where both are: cut it when they change.
        sparsifier.after_update.append(lambda *_: sf.apply_masks_(ema.module, sparsifier.masks))

        # timm saves what has a state_dict_key beside the model: here the masks, the step count and the draws.
        state = SimpleNamespace(
            state_dict_key="sparsifier", state_dict=sparsifier.state_dict, load_state_dict=sparsifier.load_state_dict
        )
        saver = CheckpointSaver(model, optimizer, model_ema=ema, amp_scaler=state, checkpoint_dir=str(folder))
        first = 0
        if start is not None:
            first = resume_checkpoint(model, str(start), optimizer=optimizer, loss_scaler=state)
            load_checkpoint(ema.module, str(start), use_ema=True)

        for epoch in range(first, epochs):
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch)).view(BATCHES, -1)
            for index, batch in enumerate(order):
                step = epoch * BATCHES + index
                scheduler.step_update(step)
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
                ema.update(model, step=step)
            saver.save_checkpoint(epoch)
        return SimpleNamespace(model=model, ema=ema.module, sparsifier=sparsifier)

    train(None, epochs=EPOCHS // 2)
    resumed = train(folder / "last.pth.tar", epochs=EPOCHS)
    alone = train(None, epochs=EPOCHS)

    print(resumed.sparsifier)
    masks = resumed.sparsifier.masks
    for name, network in (("network", resumed.model), ("its EMA", resumed.ema)):
        network.eval()
        with torch.no_grad():
            accuracy = (network(digits.test_images).argmax(1) == digits.test_labels).float().mean().item()
        zeros = 1 - sum(int(network.get_parameter(key).count_nonzero()) for key in masks) / sum(
            mask.numel() for mask in masks.values()
        )
        print(f"{name}: test accuracy {accuracy:.1%}, {zeros:.1%} of the masked weights zero")
        assert accuracy > 0.5
        assert all(not network.get_parameter(key)[~mask].any() for key, mask in masks.items())
    pairs = zip(
        [*resumed.model.state_dict().values(), *resumed.ema.state_dict().values()],
        [*alone.model.state_dict().values(), *alone.ema.state_dict().values()],
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)
    print("the resumed run is the same as one left alone, to the last bit")


if importlib.util.find_spec("timm") is None:
    print("This example needs timm: pip install timm torchvision")
else:
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
