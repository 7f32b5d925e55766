"""A model begins with weights of any source, which says what it took; foreign files become weights files of ours."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from cctkit.catalog import pretrained as catalog
from cctkit.catalog.classes import CLASS_NAMES
from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import named_config
from cctkit.errors import UserError
from cctkit.models.build import build_model, build_without_data
from cctkit.models.weights import WeightsInfo, read_weights, save_weights
from cctkit.training import initial_weights as pretrained
from cctkit.training.import_weights import import_foreign
from cctkit.training.initial_weights import initialise, pretrained_file
from cctkit.training.request import Request

CATS = ("cat", "dog", "ant")


def own_file(path: Path, *, classes: tuple[str, ...] = CATS, size: Any = 32) -> tuple[Path, nn.Module]:
    config = named_config("cct_2_3x2", num_classes=len(classes), image_size=size)
    model = build_model(config, seed=4).eval()
    info = WeightsInfo(
        model=config,
        class_names=classes,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        resize_mode="crop",
        dataset={"name": "pets", "named": False, "fingerprint": "sha256:0", "split_seed": 0, "val_fraction": 0.0},
        recipe="fast",
        metrics={},
    )
    save_weights(path, tensors=model.state_dict(), info=info)
    return path, model


def started(
    source: Path | str, *, classes: tuple[str, ...] = CATS, size: Any = 32, name: str = "cct_2_3x2", **options: Any
) -> Any:
    config = named_config(name, num_classes=len(classes), image_size=size, **options)
    model = build_model(config, seed=9)
    return model, initialise(model, str(source), config=config, class_names=classes)


def images(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_file_of_ours_is_taken_whole_with_its_normalisation(tmp_path: Path) -> None:
    path, theirs = own_file(tmp_path / "w.safetensors")
    model, report = started(path)
    assert torch.equal(model.eval()(images()), theirs(images()))
    assert (report.mean, report.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (report.left, report.missing, report.resized, report.taken) == ((), (), (), len(theirs.state_dict()))
    assert report.lines() == [f"weights from {path} (compact): 31 tensors loaded"]


def test_the_same_classes_in_another_order_keep_their_outputs(tmp_path: Path) -> None:
    path, theirs = own_file(tmp_path / "w.safetensors")
    model, _ = started(path, classes=("ant", "cat", "dog"))
    torch.testing.assert_close(model.eval()(images()), theirs(images())[:, [2, 0, 1]])


@pytest.mark.parametrize("classes", [("ant", "bee", "cat"), ("cat", "dog")])
def test_other_classes_get_a_new_head_even_where_they_are_as_many(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path, theirs = own_file(tmp_path / "w.safetensors")
    model, report = started(path, classes=classes)
    fresh = build_model(model.config, seed=9).state_dict()
    assert report.missing == report.left == ("classifier.fc.weight", "classifier.fc.bias")
    state = model.state_dict()
    assert all(torch.equal(state[name], fresh[name]) for name in report.missing)
    assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items() if name not in report.left)
    assert report.lines()[1:] == [
        "  not used from the file: classifier.fc.weight, classifier.fc.bias",
        "  newly initialised, since the classes differ: classifier.fc.weight, classifier.fc.bias",
    ]


@pytest.mark.parametrize(("size", "grid"), [(48, "12x12"), ((32, 64), "8x16")])
def test_positions_follow_the_image_size(tmp_path: Path, size: Any, grid: str) -> None:
    path, _ = own_file(tmp_path / "w.safetensors")
    model, report = started(path, size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(images(height, width)).isfinite().all()
    assert report.lines()[1] == f"  classifier.positional_emb interpolated from 8x8 to {grid} tokens"


def test_a_file_that_was_not_square_knows_its_grid(tmp_path: Path) -> None:
    path, _ = own_file(tmp_path / "w.safetensors", size=(16, 64))  # 4 x 16 tokens, as many as 8 x 8
    _, report = started(path, size=32)
    kept = json.loads(json.dumps(asdict(report)))
    assert kept["resized"] == [{"name": "classifier.positional_emb", "before": [4, 16], "after": [8, 8]}]


def test_a_vits_foreign_file_brings_imagenets_normalisation(tmp_path: Path) -> None:
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 64}
    torch.save(torchvision_models.VisionTransformer(num_classes=5, **sizes).state_dict(), tmp_path / "vit.pth")
    options = {"num_layers": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 4}
    _, report = started(tmp_path / "vit.pth", name="vit", size=(16, 24), **options)
    assert (report.mean, report.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (report.layout, report.missing) == ("torchvision", ("heads.head.weight", "heads.head.bias"))


def timm_file(folder: Path) -> Path:
    timm = pytest.importorskip("timm.models.vision_transformer")
    model = timm.VisionTransformer(img_size=16, patch_size=4, depth=2, num_heads=2, embed_dim=16, num_classes=5)
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth"


HEADS = "2 attention heads"
ASSUMED = "assumed, as the file does not say:"
TIMM: dict[str, Any] = {"name": "vit", "size": 16, "num_layers": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 4}


def test_the_normalisation_beside_a_file_of_timms_is_taken(tmp_path: Path) -> None:
    path = timm_file(tmp_path)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.5, 0.5, 0.4], "std": [0.5, 0.25, 0.5]}}')
    _, report = started(path, **TIMM)
    assert (report.layout, report.mean, report.std) == ("timm", (0.5, 0.5, 0.4), (0.5, 0.25, 0.5))
    assert not any("normalised" in line for line in report.lines())


BESIDE = '{"pretrained_cfg": {"mean": %s, "std": [0.5, 0.5, 0.5]}}'


@pytest.mark.parametrize("beside", [None, "no json", "[]", BESIDE % "[0.5]", BESIDE % f"[{10**400}, 0, 0]"])
def test_a_file_of_timms_alone_says_that_its_normalisation_is_assumed(tmp_path: Path, beside: str | None) -> None:
    path = timm_file(tmp_path)
    if beside is not None:
        (tmp_path / "config.json").write_text(beside)
    _, report = started(path, **TIMM)
    assert report.mean == (0.485, 0.456, 0.406)
    assert report.lines()[1:3] == [
        "  images are normalised with ImageNet's mean and std, since the file does not say which were used",
        f"  {ASSUMED} the class token is classified, exact GELU, layer norms with epsilon 1e-6, {HEADS}",
    ]


@pytest.mark.parametrize(
    ("told", "assumed"),
    [
        (
            {"global_pool": "token", "architecture": "vit_wee", "model_args": {"num_heads": 2}},
            ("exact GELU", "layer norms with epsilon 1e-6"),
        ),
        (
            {"model_args": {"global_pool": "token", "act_layer": "gelu", "norm_layer": "layernorm", "num_heads": 2}},
            (),
        ),
        ({"architecture": "vit_tiny_patch16_224.augreg_in21k", "model_args": {"num_heads": 2, "img_size": 16}}, ()),
        ({"architecture": 3, "model_args": [], "global_pool": "token"}, ("exact GELU", "layer norms with epsilon 1e-6", HEADS)),
    ],
)
def test_what_lies_beside_a_file_of_timms_need_not_be_assumed(tmp_path: Path, told: Any, assumed: tuple[str, ...]) -> None:
    path = timm_file(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(told))
    _, report = started(path, **TIMM)
    assert report.assumed == assumed
    assert any("assumed" in line for line in report.lines()) == bool(assumed)


def test_timms_own_config_of_a_plain_vit_leaves_nothing_to_assume(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=2, embed_dim=16, num_heads=2, num_classes=5
    )
    timm.models.save_for_hf(model, tmp_path, safe_serialization="both")
    _, report = started(tmp_path / "model.safetensors", **TIMM)
    assert (report.mean, report.is_assumed, report.assumed) == ((0.5, 0.5, 0.5), False, ())


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"global_pool": "avg"}, "its global_pool is 'avg', expected 'token'"),
        ({"global_pool": "token", "model_args": {"global_pool": "max", "fc_norm": False}}, "its global_pool is 'max'"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"act_layer": "quick_gelu"}}, "its act_layer is 'quick_gelu'"),
        ({"model_args": {"norm_layer": "rmsnorm"}}, "its norm_layer is 'rmsnorm'"),
        ({"architecture": "vit_base_patch32_clip_quickgelu_224"}, "has quick GELU"),
        ({"architecture": "vit_base_patch32_clip_224.openai"}, "has layer norms with epsilon 1e-5"),
        ({"architecture": "vit_base_patch16_gap_224"}, "has averaged tokens"),
        ({"architecture": "vit_small_patch16_224"}, "has 6 attention heads, vit has 2.*--num-heads 6"),
        ({"model_args": {"num_heads": 4}}, "has 4 attention heads, vit has 2"),
    ],
)
def test_a_vit_of_timms_whose_config_tells_of_something_else_is_refused(tmp_path: Path, told: Any, words: str) -> None:
    path = timm_file(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=words) as caught:
        started(path, **TIMM)
    assert caught.value.where == str(tmp_path / "config.json")


def test_the_refused_config_of_timm_is_one_that_timm_writes_of_a_model_with_other_logits(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
    other = timm.create_model("vit_tiny_patch16_224", **sizes, global_pool="avg", fc_norm=False)
    plain = timm.create_model("vit_tiny_patch16_224", **sizes)
    plain.load_state_dict(other.state_dict())  # the same tensors
    x = images(16, 16)
    assert not torch.allclose(plain.eval()(x), other.eval()(x))
    timm.models.save_for_hf(other, tmp_path, safe_serialization="both")
    with pytest.raises(UserError, match="its global_pool is 'avg'"):
        started(tmp_path / "model.safetensors", **TIMM)


def test_weights_of_ours_with_another_number_of_heads_are_refused(tmp_path: Path) -> None:
    path, _ = own_file(tmp_path / "w.safetensors")  # 2 heads, which no tensor's shape tells
    with pytest.raises(UserError, match=r"has 2 attention heads, the model 4.*--num-heads 2"):
        started(path, num_heads=4)


@pytest.mark.parametrize("name", ["cct_2_3x2", "vit_b_32", "vit_s_16"])
def test_weights_by_the_name_of_another_model_are_refused_before_their_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "download", lambda *_, **__: pytest.fail("it was downloaded"))
    config = named_config(name, num_classes=2)
    with pytest.raises(UserError, match=f"vit_b_16 do not fit the model {name}.*add --model vit_b_16"):
        pretrained.initialise(build_without_data(config), "vit_b_16", config=config)
    with pytest.raises(UserError, match=f"vit_b_16 do not fit the model {name}"):  # before the images are looked for
        Request(flags={"init": "vit_b_16", "model": name, "dataset": str(tmp_path / "no images")}, file_values={})


def test_weights_by_name_are_not_fetched_where_downloads_are_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "download", lambda *_, **__: pytest.fail("it was downloaded"))
    config = named_config("vit_b_16", num_classes=2, image_size=32)
    with pytest.raises(UserError, match=r"--no-download forbids.*--init FILE"):
        pretrained.initialise(build_without_data(config), "vit_b_16", config=config, may_download=False)


def test_a_published_compact_file_does_not_say_how_its_images_were_normalised(tmp_path: Path) -> None:
    published(tmp_path / "w.pth", "cct_2_3x2")
    _, report = started(tmp_path / "w.pth")
    assert (report.layout, report.mean, report.std) == ("compact", None, None)


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vit_b_16"):
        started("vit_b_61")
    with pytest.raises(UserError, match="no file"):
        started(tmp_path / "nothing.pth")


@pytest.mark.parametrize("name", catalog.PRETRAINED)
def test_the_table_of_pretrained_weights_is_torchvisions(name: str) -> None:
    kind = torchvision_models.get_model_weights(name)
    theirs = kind.IMAGENET1K_SWAG_LINEAR_V1 if name == "vit_h_14" else kind.IMAGENET1K_V1
    row = catalog.PRETRAINED[name]
    assert row.url == theirs.url
    assert row.url.endswith(f"-{row.sha256}.pth")
    assert row.top1_percent == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert row.megabytes == pytest.approx(theirs.meta["_file_size"] * 2**20 / 1e6, abs=1)
    assert (row.image_size, row.image_size) == theirs.meta["min_size"]
    transform = theirs.transforms()
    assert (tuple(transform.mean), tuple(transform.std)) == (catalog.IMAGENET_MEAN, catalog.IMAGENET_STD)


@pytest.mark.parametrize("name", catalog.PRETRAINED)
def test_no_more_is_downloaded_than_the_published_file_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is in torchvision's catalog, in MiB."""
    of_row = {"vit_h_14": "IMAGENET1K_SWAG_LINEAR_V1"}.get(name, "IMAGENET1K_V1")
    published = torchvision_models.get_model_weights(name)[of_row].meta["_file_size"] * 2**20
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))

    limits: list[int | None] = []

    def fetch(url: str, part: Path, progress: Any, max_bytes: int | None) -> None:
        part.write_bytes(b"")
        limits.append(max_bytes)

    monkeypatch.setattr("cctkit.data.sources.download._fetch", fetch)
    with pytest.raises(UserError, match="SHA-256 differs"):
        pretrained_file(name, progress=lambda *_: None)
    (limit,) = limits
    assert limit is not None
    assert published < limit < published + 2e6


def test_a_name_is_downloaded_once_and_its_checksum_is_that_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    asked = []

    def fetch(url: str, part: Path, *_: object) -> None:
        asked.append(url)
        part.write_bytes(b"weights")

    monkeypatch.setattr("cctkit.data.sources.download._fetch", fetch)
    with pytest.raises(UserError, match="SHA-256 differs"):
        pretrained_file("vit_b_16", progress=lambda *_: None)
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    row = catalog.PretrainedRow(url="https://there/w.pth", sha256=digest, megabytes=1, top1_percent=0)
    monkeypatch.setattr(pretrained, "PRETRAINED", {"vit_b_16": row})
    paths = [pretrained_file("vit_b_16", progress=lambda *_: None) for _ in range(2)]
    assert paths == [tmp_path / "weights" / "w.pth"] * 2
    assert asked == [catalog.PRETRAINED["vit_b_16"].url, "https://there/w.pth"]


def test_without_a_network_a_name_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    row = catalog.PretrainedRow(url="http://127.0.0.1:9/w.pth", sha256="0", megabytes=1, top1_percent=0)
    monkeypatch.setattr(pretrained, "PRETRAINED", {"vit_b_16": row})
    with pytest.raises(UserError, match="download failed"):
        pretrained_file("vit_b_16", progress=lambda *_: None)


def published(path: Path, name: str, **options: Any) -> nn.Module:
    """A file as the authors publish: plain names, with learnable positions whatever the name says."""
    model = build_model(named_config(name, positional_embedding="learnable", **options), seed=6).eval()
    torch.save(model.state_dict(), path)
    return model


def imported(path: Path, tmp_path: Path, **options: Any) -> tuple[nn.Module, WeightsInfo, tuple[str, ...]]:
    found = import_foreign(path, **options)
    save_weights(tmp_path / "w.safetensors", tensors=found.tensors, info=found.info)
    tensors, info = read_weights(tmp_path / "w.safetensors")
    model = build_model(info.model, seed=0)
    model.load_state_dict(tensors)
    return model.eval(), info, found.notes


def test_a_published_sine_file_is_imported_as_the_learnable_one_it_is(tmp_path: Path) -> None:
    theirs = published(tmp_path / "w.pth", "cct_7_3x1_32_sine_c100")
    model, info, notes = imported(tmp_path / "w.pth", tmp_path, model="cct_7_3x1_32_sine_c100")
    assert torch.equal(model(images()), theirs(images()))
    assert info.model.positional_embedding == "learnable"
    assert len(notes) == 1
    assert "published `_sine` models were built with learnable ones" in notes[0]
    assert info.class_names == CLASS_NAMES["cifar100"]
    assert (info.mean, info.std) == (DATASETS["cifar100"].mean, DATASETS["cifar100"].std)
    assert (info.dataset["name"], info.dataset["named"]) == ("cifar100", True)
    assert info.dataset["fingerprint"] == DATASETS["cifar100"].fingerprint


@pytest.mark.parametrize("positional", ["sine", "none"])
def test_positions_are_what_the_file_holds(tmp_path: Path, positional: str) -> None:
    theirs = build_model(named_config("cct_2_3x2", positional_embedding=positional), seed=6).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    model, info, notes = imported(tmp_path / "w.pth", tmp_path, model="cct_2_3x2_32_c10")
    assert torch.equal(model(images()), theirs(images()))
    assert info.model.positional_embedding == positional
    assert notes == (f"the positional embedding is {positional}, not learnable as the name says",)
    assert info.class_names == CLASS_NAMES["cifar10"]


def test_classes_and_normalisation_can_be_given(tmp_path: Path) -> None:
    published(tmp_path / "w.pth", "cct_2_3x2", num_classes=3)
    _, info, _ = imported(
        tmp_path / "w.pth", tmp_path, model="cct_2_3x2", classes=CATS, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    assert (info.class_names, info.mean, info.std) == (CATS, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert info.dataset["named"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "cct_2_3x2"}, "3 classes, but no names are given"),
        ({"model": "cct_2_3x2", "classes": "cifar10"}, "3 classes, but 10 different names"),
        ({"model": "cct_2_3x2", "classes": ["a", "a", "b"]}, "2 different names"),
        ({"model": "cct_2_3x2", "classes": "cifar11"}, "unknown data set 'cifar11'"),
        ({"model": "cct_2_3x2", "classes": CATS}, "mean and std of the training images are not known"),
        ({"model": "cct_4_3x2", "classes": CATS}, "4 blocks"),
    ],
)
def test_what_is_known_neither_way_is_asked_for(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    published(tmp_path / "w.pth", "cct_2_3x2", num_classes=3)
    with pytest.raises(UserError, match=words):
        import_foreign(tmp_path / "w.pth", **options)


def test_the_classes_of_cifar_are_in_the_order_of_the_archives() -> None:
    assert {name: len(set(names)) for name, names in CLASS_NAMES.items()} == {"cifar10": 10, "cifar100": 100}
    assert CLASS_NAMES["cifar100"] == tuple(sorted(CLASS_NAMES["cifar100"]))
    assert CLASS_NAMES["cifar100"][::33] == ("apple", "forest", "raccoon", "worm")
    assert CLASS_NAMES["cifar10"][3:6] == ("cat", "deer", "dog")


def test_an_imported_vit_of_timms_has_the_normalisation_beside_it_and_says_what_is_assumed(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"patch_size": 16, "depth": 12, "num_heads": 6, "embed_dim": 384, "num_classes": 3}
    with torch.device("meta"):
        shapes = timm.VisionTransformer(**sizes).state_dict()
    torch.save({name: torch.zeros(value.shape, dtype=torch.float16) for name, value in shapes.items()}, tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text(
        '{"global_pool": "token", "pretrained_cfg": {"mean": [0.5,0.5,0.4], "std": [0.5,0.5,0.5]}}'
    )
    found = import_foreign(tmp_path / "vit.pth", model="vit_s_16", classes=CATS)
    assert (found.info.mean, found.info.std) == ((0.5, 0.5, 0.4), (0.5, 0.5, 0.5))
    assert found.notes == (f"{ASSUMED} exact GELU, layer norms with epsilon 1e-6, 6 attention heads",)
