import nibabel
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from shapefit.camera import Camera
from shapefit.io.xray import (
    detect_polarity,
    read_image,
    read_mask,
    read_view,
    write_camera,
    write_image,
    write_mask,
)

CAMERA = Camera(sdd=1020.0, delx=1.5, dely=1.5, x0=0.0, y0=0.0, height=20, width=30)


def ramp(height: int = 20, width: int = 30) -> torch.Tensor:
    """Intensities in (0, 1] with no symmetry, whose largest is 1."""
    image = torch.arange(1, height * width + 1, dtype=torch.float32).reshape(height, width)
    return image / image.max()


def view_files(folder, image=None, mask=None, camera=CAMERA):
    write_image(folder / "xray.png", ramp() if image is None else image)
    write_camera(folder / "camera.json", camera)
    if mask is not None:
        write_mask(folder / "mask.png", mask)
    return folder / "xray.png", folder / "camera.json", folder / "mask.png"


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [(".png", 1e-5), (".tif", 0), (".tiff", 0), (".nii", 0), (".nii.gz", 0), (".npy", 0)],
)
def test_a_picture_comes_back_as_it_was_written(tmp_path, suffix, tolerance):
    image = 0.7 * ramp()
    write_image(tmp_path / f"a{suffix}", image)
    back = read_image(tmp_path / f"a{suffix}", polarity="bone-dark")
    assert (back - image).abs().max() <= tolerance


def test_a_png_of_millimetres_keeps_the_value_of_a_grey_level(tmp_path):
    lengths = 83.5 * ramp()
    scale = write_image(tmp_path / "paths.png", lengths)
    with Image.open(tmp_path / "paths.png") as picture:
        assert picture.mode == "I;16"
        levels = np.asarray(picture).astype(np.float64)
        assert float(picture.info["scale"]) == scale
    assert np.abs(levels * scale - lengths.numpy()).max() <= scale


def test_files_of_8_and_16_bit_land_in_0_to_1(tmp_path):
    eight = (200 * ramp()).numpy().astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", eight)
    for name in ("a.png", "a.tif"):
        assert torch.allclose(read_image(tmp_path / name, "bone-dark"), torch.from_numpy(eight / 255).float())
    twelve = (3000 * ramp()).numpy().astype(np.uint16)  # a 12-bit detector in a 16-bit file
    Image.fromarray(twelve).save(tmp_path / "b.png")
    np.save(tmp_path / "b.npy", twelve)
    for name in ("b.png", "b.npy"):
        assert torch.allclose(
            read_image(tmp_path / name, "bone-dark"), torch.from_numpy(twelve / 3000).float()
        )


def test_bone_bright_is_turned_round(tmp_path):
    write_image(tmp_path / "a.npy", ramp())
    dark, bright = (read_image(tmp_path / "a.npy", p) for p in ("bone-dark", "bone-bright"))
    assert torch.allclose(dark + bright, torch.ones(()))


def test_a_tiff_whose_white_is_zero_is_read_as_it_is_seen(tmp_path):
    array = (255 * ramp()).numpy().astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array)
    tifffile.imwrite(tmp_path / "b.tif", 255 - array, photometric="miniswhite")
    one, other = (read_image(tmp_path / name, "bone-dark") for name in ("a.tif", "b.tif"))
    assert torch.equal(one, other)


def test_what_is_seen_from_the_detector_is_flipped_with_its_mask(tmp_path):
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[3:5, 2:9] = 1
    image, camera, mask_path = view_files(tmp_path, mask=mask)
    source = read_view(image, camera, mask_path, "bone-dark")
    detector = read_view(image, camera, mask_path, "bone-dark", seen_from="detector")
    assert torch.equal(detector.image, source.image.flip(1))
    assert torch.equal(detector.mask, source.mask.flip(1))
    with pytest.raises(ValueError, match="expected one of source, detector"):
        read_image(image, "bone-dark", seen_from="above")


def test_a_grey_picture_in_colour_channels_is_grey_and_a_coloured_one_is_an_error(tmp_path):
    grey = (255 * ramp()).numpy().astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    assert torch.equal(read_image(tmp_path / "grey.png", "bone-dark"), torch.from_numpy(grey / 255).float())
    Image.fromarray(np.stack([grey, grey, 255 - grey], -1)).save(tmp_path / "red.png")
    with pytest.raises(ValueError, match=r"red.png is a colour image; export it in grey"):
        read_image(tmp_path / "red.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii", ".nii.gz", ".dcm", ".npy"])
def test_what_is_not_an_image_is_an_error_that_names_the_file(tmp_path, suffix):
    (tmp_path / f"bad{suffix}").write_bytes(b"these are words, not pixels " * 20)
    with pytest.raises(ValueError, match=f"bad{suffix} is not a readable"):
        read_image(tmp_path / f"bad{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii.gz", ".npy"])
def test_a_truncated_image_is_an_error_that_names_the_file(tmp_path, suffix):
    write_image(tmp_path / f"cut{suffix}", torch.rand(100, 100, generator=torch.Generator().manual_seed(0)))
    content = (tmp_path / f"cut{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"cut{suffix} is not a readable image"):
        read_image(tmp_path / f"cut{suffix}")


def test_absent_and_unknown_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"absent.png is not a file"):
        read_image(tmp_path / "absent.png")
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"expected a name that ends in \.png"):
        read_image(tmp_path / "a.txt")


def test_an_npy_with_objects_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a readable image"):
        read_image(tmp_path / "a.npy")


def test_an_empty_image_is_an_error(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"a.png is empty: 0 bytes"):
        read_image(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((0, 5)))
    with pytest.raises(ValueError, match=r"b.npy is an empty image, of shape \(0, 5\)"):
        read_image(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.full((9, 9), 3))
    with pytest.raises(ValueError, match=r"c.npy is an empty image: every pixel is 3"):
        read_image(tmp_path / "c.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_an_error_that_counts_them(tmp_path, bad):
    array = ramp().numpy()
    array[3, 4:7] = bad
    np.save(tmp_path / "a.npy", array)
    tifffile.imwrite(tmp_path / "a.tif", array)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    for name in ("a.npy", "a.tif", "a.nii"):
        with pytest.raises(ValueError, match=f"{name} has 3 pixels that are NaN or infinite"):
            read_image(tmp_path / name)


def test_a_stack_of_frames_needs_a_choice(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([ramp().numpy(), 0.5 * ramp().numpy()]))
    with pytest.raises(ValueError, match=r"a.npy holds 2 frames; choose one"):
        read_image(tmp_path / "a.npy")
    assert torch.equal(read_image(tmp_path / "a.npy", "bone-dark", frame=1), 0.5 * ramp())
    with pytest.raises(ValueError, match=r"has no frame 2; it holds 0 to 1"):
        read_image(tmp_path / "a.npy", frame=2)


@pytest.mark.parametrize(
    ("path", "image", "message"),
    [
        ("a.png", -ramp(), "PNG holds no negative values"),
        ("a.tif", float("nan") * ramp(), "600 values are NaN or infinite"),
        ("a.jpg", ramp(), r"expected \.png, \.tif"),
    ],
)
def test_what_a_file_cannot_hold_is_an_error_and_leaves_nothing(tmp_path, path, image, message):
    with pytest.raises(ValueError, match=message):
        write_image(tmp_path / path, image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_a_mask_comes_back_with_its_ids(tmp_path, suffix):
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[2:9, 3:8], mask[10:12, 20:25], mask[0] = 1, 2, 255
    write_mask(tmp_path / f"mask{suffix}", mask)
    assert torch.equal(read_mask(tmp_path / f"mask{suffix}"), mask)


def test_a_mask_with_a_palette_is_read_by_its_ids_not_its_colours(tmp_path):
    ids = np.zeros((20, 30), np.uint8)
    ids[4:9, 5:20] = 2
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").unique().tolist() == [0, 2]


def test_a_mask_of_other_than_small_whole_numbers_is_an_error(tmp_path):
    for name, value in (("a.npy", 0.5), ("b.npy", 300.0), ("c.npy", -1.0)):
        np.save(tmp_path / name, np.array([[0.0, value]]))
        with pytest.raises(ValueError, match=f"{name} is not a mask: its values run from"):
            read_mask(tmp_path / name)


def test_a_view_holds_image_camera_pose_and_mask(tmp_path):
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[5, 5] = 2
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    image, camera, mask_path = view_files(tmp_path, mask=mask)
    write_camera(camera, CAMERA, pose)
    view = read_view(image, camera, mask_path, "bone-dark")
    assert (view.image - ramp()).abs().max() < 1e-4
    assert view.camera == CAMERA and torch.equal(view.world_from_camera, pose)
    assert torch.equal(view.mask, mask) and view.valid.all() and view.name == "xray"


def test_an_image_of_another_size_than_its_camera_is_an_error_that_says_both(tmp_path):
    image, camera, _ = view_files(tmp_path, image=ramp(20, 31))
    with pytest.raises(ValueError, match=r"xray.png has 20 rows and 31 columns, its camera .*width 30"):
        read_view(image, camera, polarity="bone-dark")


def test_a_mask_of_another_size_than_its_image_is_an_error_that_says_both(tmp_path):
    image, camera, mask = view_files(tmp_path, mask=torch.zeros(10, 30, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"mask.png has 10 rows and 30 columns, its image .* 20 and 30"):
        read_view(image, camera, mask, polarity="bone-dark")


def test_a_picture_without_geometry_is_an_error_that_names_the_option(tmp_path):
    image, _, _ = view_files(tmp_path)
    with pytest.raises(ValueError, match="give its camera file with --camera"):
        read_view(image, polarity="bone-dark")


def test_an_unknown_polarity_is_an_error_that_names_the_choices(tmp_path):
    image, _, _ = view_files(tmp_path)
    with pytest.raises(ValueError, match="expected one of auto, bone-dark, bone-bright"):
        read_image(image, polarity="inverted")


def test_noise_has_no_polarity_and_the_error_says_what_to_pass(tmp_path):
    noise = torch.rand(192, 192, generator=torch.Generator().manual_seed(0))
    assert detect_polarity(noise.numpy()) == "unknown"
    write_image(tmp_path / "noise.npy", noise)
    with pytest.raises(ValueError, match=r"noise.npy: cannot tell .*; say --polarity"):
        read_image(tmp_path / "noise.npy")


def collimated(image: np.ndarray, value: float) -> np.ndarray:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    middle = (np.array(image.shape) - 1) / 2
    return np.where(np.hypot(rows - middle[0], columns - middle[1]) > 0.98 * middle.min(), value, image)


def test_the_polarity_of_real_fluoroscopy_is_told_plain_inverted_and_collimated(data_dir):
    with np.load(data_dir / "fluoroscopy" / "specimen_18-2800.npz") as file:
        images = file["image"].astype(np.float64)
    for image in images:
        for blades in (image, collimated(image, 0.0), collimated(image, 255.0)):
            assert detect_polarity(blades) == "bone-dark"
            assert detect_polarity(255 - blades) == "bone-bright"


def test_polarity_does_not_depend_on_gain_offset_or_size(data_dir):
    with np.load(data_dir / "fluoroscopy" / "specimen_18-2800.npz") as file:
        image = file["image"][8].astype(np.float64)
    large = np.kron(image, np.ones((4, 4)))
    for other in (image * 16 + 300, image / 1000 - 5, large, np.log(image + 5)):
        assert detect_polarity(other) == "bone-dark"
        assert detect_polarity(-other) == "bone-bright"


def test_a_real_view_reads_the_same_from_a_bone_bright_file(data_dir, tmp_path):
    with np.load(data_dir / "fluoroscopy" / "specimen_18-2800.npz") as file:
        image, labels = file["image"][0], file["segmentation"][0].astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "dark.png")
    Image.fromarray(255 - image).save(tmp_path / "bright.png")
    Image.fromarray(labels).save(tmp_path / "mask.png")
    write_camera(tmp_path / "camera.json", Camera(1020.0, 1.552, 1.552, 0.0, 0.0, 192, 192))
    dark, bright = (
        read_view(tmp_path / name, tmp_path / "camera.json", tmp_path / "mask.png")
        for name in ("dark.png", "bright.png")
    )
    assert torch.allclose(dark.image, bright.image, atol=1e-6)
    assert torch.allclose(dark.image, torch.from_numpy(image / 255).float())
    assert torch.equal(dark.mask, torch.from_numpy(labels))
