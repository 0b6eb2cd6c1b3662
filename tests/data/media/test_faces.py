from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pkdray.data.media.faces import FaceDetector, choose, crop_face, face_crops, overlap, retain, square
from pkdray.data.media.video import Frame, read_frames
from pkdray.errors import DatasetError


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(min_face_size=40)


@pytest.fixture
def seen(monkeypatch):
    """The batches that the network is shown."""
    batches = []
    look = FaceDetector._candidates

    def spy(self, images):
        batches.append(images.shape)
        return look(self, images)

    monkeypatch.setattr(FaceDetector, "_candidates", spy)
    return batches


class TestDetect:
    @pytest.mark.parametrize(("centre", "face_px"), [((150, 120), 90), ((80, 75), 60), ((222, 140), 131)])
    def test_a_face_is_found_where_it_is(self, detector, face_image, face_box, centre, face_px):
        found = detector.detect([face_image(centre, face_px)])
        assert found.found.tolist() == [True]
        assert found.probabilities[0] > 0.99
        assert overlap(found.boxes[0], face_box(centre, face_px)) > 0.7

    def test_no_face(self, detector, face_image):
        found = detector.detect([face_image(face_px=0), np.zeros((61, 83, 3), np.uint8)])
        assert found.found.tolist() == [False, False]
        assert np.isnan(found.boxes).all()
        assert found.probabilities.tolist() == [0.0, 0.0]

    def test_pictures_of_several_sizes_keep_their_order(self, detector, face_image, face_box, seen):
        images = [
            face_image((80, 75), 60),
            face_image(face_px=0),
            face_image((150, 120), 90, width=277),
            face_image((222, 140), 131),
            np.zeros((39, 400, 3), np.uint8),
            face_image((100, 150), 70, width=277),
        ]
        found = detector.detect(images)
        assert found.found.tolist() == [True, False, True, True, False, True]
        assert seen == [(3, 240, 318, 3), (2, 240, 277, 3)]
        for row, place in ((0, ((80, 75), 60)), (2, ((150, 120), 90)), (3, ((222, 140), 131)), (5, ((100, 150), 70))):
            assert overlap(found.boxes[row], face_box(*place)) > 0.7
        # A batch is the same as one picture after the other.
        for row, image in enumerate(images):
            alone = detector.detect([image])
            np.testing.assert_allclose(alone.boxes[0], found.boxes[row], atol=0.05)
            np.testing.assert_allclose(alone.probabilities[0], found.probabilities[row], atol=1e-4)

    def test_batches(self, face_image, seen):
        detector = FaceDetector(min_face_size=80, batch_size=2)
        assert detector.detect(np.stack([face_image()] * 5)).found.all()
        assert [shape[0] for shape in seen] == [2, 2, 1]

    def test_the_same_to_the_last_bit_on_any_number_of_threads(self, face_image):
        import torch

        noise = np.random.default_rng(3).integers(0, 30, (13, 2))
        images = [face_image((110 + x, 100 + y), 80) for x, y in noise.tolist()]
        before, boxes = torch.get_num_threads(), []
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                boxes.append(FaceDetector(min_face_size=20).detect(images).boxes)
                assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(before)
        assert not np.isnan(boxes[0]).any()
        np.testing.assert_array_equal(boxes[0], boxes[1])

    def test_of_two_faces_the_larger(self, detector, face_image, face_box):
        for small, large in (((70, 70), (220, 130)), ((250, 70), (95, 130))):
            image = face_image(large, 110, onto=face_image(small, 50))
            both = next(detector._candidates(image[None]))
            assert len(both[0]) == 2
            found = detector.detect([image])
            assert overlap(found.boxes[0], face_box(large, 110)) > 0.7

    def test_nothing_to_look_at(self, detector):
        found = detector.detect([])
        assert (found.boxes.shape, found.probabilities.shape, found.found.shape) == ((0, 4), (0,), (0,))

    def test_floats_are_refused(self, detector, face_image):
        # MTCNN takes them, and finds nothing.
        image = face_image()
        with pytest.raises(TypeError, match="picture 1 is of float32"):
            detector.detect([image, image.astype(np.float32) / 255])
        with pytest.raises(TypeError, match="uint8"):
            detector.detect([Image.fromarray(image)])
        with pytest.raises(ValueError, match=r"picture 0 has shape \[240, 318\]"):
            detector.detect([image[..., 0]])

    @pytest.mark.parametrize(
        "wrong", [{"min_face_size": 11}, {"min_probability": 1.5}, {"select": "nearest"}, {"batch_size": 0}]
    )
    def test_settings_are_checked(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            FaceDetector(**wrong)

    def test_a_detector_travels_without_its_network(self, detector, face_image):
        image = face_image()
        before = detector.detect([image])
        sent = pickle.dumps(detector)
        assert len(sent) < 1000
        back = pickle.loads(sent)  # noqa: S301
        assert back == detector
        assert not back._loaded
        assert (back.detect([image]).boxes == before.boxes).all()

    def test_the_module_does_not_import_torch(self):
        code = (
            "import sys, pkdray.data.media.faces, pkdray.data.media.video; "
            "print({'torch', 'av', 'ray'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


class TestEvery:
    def test_a_moving_face_is_followed(self, detector, face_image, face_box, seen):
        places = [((100 + 3 * k, 100 + 2 * k), 80 + k) for k in range(13)]
        images = [face_image(*place) for place in places]
        found = detector.detect(images, every=5)
        assert sum(shape[0] for shape in seen) == 4  # 0, 5, 10 and the last, 12
        assert found.found.all()
        for box, place in zip(found.boxes, places, strict=True):
            assert overlap(box, face_box(*place)) > 0.7
        looked = detector.detect([images[k] for k in (0, 5, 10, 12)])
        np.testing.assert_allclose(found.boxes[[0, 5, 10, 12]], looked.boxes, atol=0.05)
        assert found.probabilities[7] == found.probabilities[[5, 10]].min() < found.probabilities[[5, 10]].max()
        np.testing.assert_allclose(found.boxes[7], 0.6 * found.boxes[5] + 0.4 * found.boxes[10])

    def test_coming_going_and_jumping_are_seen_to_the_frame(self, detector, face_image, seen):
        here, there, nobody = face_image((90, 100), 80), face_image((230, 130), 80), face_image(face_px=0)
        images = [nobody] * 3 + [here] * 9 + [there] * 5
        found = detector.detect(images, every=4)
        exact = detector.detect(images)
        assert found.found.tolist() == exact.found.tolist() == [False] * 3 + [True] * 14
        np.testing.assert_allclose(found.boxes, exact.boxes, atol=0.05)
        # All of 0..4, where the face comes, and of 8..12, where it jumps; but of 4..8 and 12..16 the ends alone.
        assert sum(shape[0] for shape in seen[:-2]) == 5 + 3 + 3

    def test_one_frame_and_none(self, detector, face_image):
        assert detector.detect([face_image()], every=7).found.tolist() == [True]
        assert detector.detect([], every=7).found.tolist() == []
        with pytest.raises(ValueError, match="every is 0"):
            detector.detect([], every=0)


class TestChoose:
    BOXES = np.array([[0.0, 0, 10, 12], [20, 0, 50, 33], [3, 3, 90, 91], [60, 0, 90, 33]])

    @pytest.mark.parametrize(
        ("select", "probabilities", "least", "wanted"),
        [
            ("largest", [0.99, 0.95, 0.72, 0.95], 0.9, 1),
            ("largest", [0.99, 0.95, 0.72, 0.96], 0.9, 3),
            ("largest", [0.99, 0.95, 0.72, 0.95], 0.0, 2),
            ("probable", [0.99, 0.95, 0.99, 0.95], 0.0, 2),
            ("probable", [0.99, 0.95, 0.98, 0.95], 0.0, 0),
            ("largest", [0.8, 0.8, 0.8, 0.8], 0.9, None),
        ],
    )
    def test_choice(self, select, probabilities, least, wanted):
        assert choose(self.BOXES, np.array(probabilities), select, least) == wanted

    @given(st.permutations(range(4)), st.sampled_from(["largest", "probable"]))
    def test_the_order_does_not_matter(self, order, select):
        probabilities = np.array([0.9, 0.95, 0.9, 0.95])
        best = choose(self.BOXES[order], probabilities[order], select)
        assert order[best] == choose(self.BOXES, probabilities, select)


def test_overlap_by_hand():
    first = np.array([0.0, 0, 4, 3])
    assert overlap(first, first) == 1
    assert overlap(first, np.array([4.0, 0, 8, 3])) == 0
    assert overlap(first, np.array([1.0, 1, 3, 2])) == pytest.approx(2 / 12)
    assert overlap(first, np.full(4, np.nan)) == 0


def triangle_resize(image, left, top, side, size):
    """float64 [size, size, 3]: a triangle filter as wide as a target pixel (no narrower than a source pixel)."""

    def weights(start, length):
        scale = side / size
        width = max(scale, 1.0)
        matrix = np.zeros((size, length))
        for k in range(size):
            centre = start + (k + 0.5) * scale
            # The filter sees no pixel that is wholly beyond its support.
            first, last = max(int(centre - width + 0.5), 0), min(int(centre + width + 0.5), length)
            at = np.arange(first, last)
            matrix[k, first:last] = np.maximum(1 - np.abs(at + 0.5 - centre) / width, 0)
        return matrix / matrix.sum(axis=1, keepdims=True)

    rows, columns = weights(top, image.shape[0]), weights(left, image.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)


class TestCrop:
    @pytest.mark.parametrize(
        ("box", "margin", "wanted"),
        [
            ([20, 10, 50, 50], 0.0, (15, 10, 40)),  # squared around its centre
            ([20, 10, 50, 50], 0.25, (5, 0, 60)),
            ([-12, 30, 18, 70], 0.0, (0, 30, 40)),  # moved inside
            ([80, 40, 120, 75], 0.0, (57, 31, 40)),
            ([10, 5, 90, 60], 0.5, (14.5, 0, 71)),  # made smaller
            ([20.25, 10.5, 50.75, 41.5], 0.0, (20, 10.5, 31)),
        ],
    )
    def test_square(self, box, margin, wanted):
        assert square(np.array(box, dtype=float), height=71, width=97, margin=margin) == pytest.approx(wanted)

    @given(
        hnp.arrays(np.float64, 4, elements=st.floats(-60, 180)),
        st.floats(-0.4, 2),
        st.integers(5, 90),
        st.integers(5, 90),
    )
    def test_the_square_is_in_the_picture(self, edges, margin, height, width):
        left, right = sorted(edges[:2])
        top, bottom = sorted(edges[2:])
        assume(max(left, 0) < min(right, width) and max(top, 0) < min(bottom, height))
        x, y, side = square(np.array([left, top, right, bottom]), height, width, margin)
        assert side > 0
        assert -1e-9 <= x <= width - side + 1e-9
        assert -1e-9 <= y <= height - side + 1e-9

    @pytest.mark.parametrize("size", [7, 31, 112])
    @pytest.mark.parametrize("box", [[20.25, 10.5, 50.75, 41.5], [3.3, 2.1, 88.0, 66.6], [60, 50, 67, 56]])
    def test_against_a_written_out_filter(self, box, size):
        image = np.random.default_rng(5).integers(0, 256, (71, 97, 3), dtype=np.uint8)
        crop = crop_face(image, np.array(box), size=size, margin=0.1)
        assert crop.dtype == np.uint8
        assert crop.shape == (size, size, 3)
        wanted = triangle_resize(image, *square(np.array(box), 71, 97, 0.1), size)
        # Both axes are rounded to 8 bits.
        assert np.abs(crop - wanted).max() < 1.6

    def test_a_whole_square_at_its_own_size_is_copied(self):
        image = np.random.default_rng(5).integers(0, 256, (71, 97, 3), dtype=np.uint8)
        before = image.copy()
        crop = crop_face(image, np.array([11.0, 20, 42, 51]), size=31)
        assert (crop == image[20:51, 11:42]).all()
        crop[:] = 0
        assert (image == before).all()

    def test_a_view_that_is_not_contiguous(self):
        image = np.random.default_rng(5).integers(0, 256, (71, 97, 3), dtype=np.uint8)
        box = np.array([11.0, 20, 42, 51])
        assert (crop_face(image[:, ::-1], box, size=19) == crop_face(image[:, ::-1].copy(), box, size=19)).all()

    @pytest.mark.parametrize("box", [[np.nan] * 4, [10, 10, 10, 20], [20, 10, 10, 20], [97, 3, 120, 9], [-9, 3, 0, 9]])
    def test_no_face_no_crop(self, box):
        with pytest.raises(ValueError, match="Crop only faces that were found"):
            crop_face(np.zeros((71, 97, 3), np.uint8), np.array(box, dtype=float))

    def test_arguments_are_checked(self):
        box = np.array([1.0, 1, 5, 5])
        with pytest.raises(TypeError, match="float64"):
            crop_face(np.zeros((7, 9, 3)), box)
        with pytest.raises(ValueError, match="size is 0"):
            crop_face(np.zeros((7, 9, 3), np.uint8), box, size=0)
        with pytest.raises(ValueError, match=r"margin -0\.5"):
            crop_face(np.zeros((7, 9, 3), np.uint8), box, margin=-0.5)


class TestRetain:
    @given(hnp.arrays(np.bool_, st.integers(0, 41)))
    def test_laws(self, found):
        crops = np.arange(1, 1 + found.size * 6, dtype=np.int32).reshape(found.size, 3, 2)
        crops[~found] = -1
        before = crops.copy()
        filled, retained = retain(crops, found)
        black, same = retain(crops, found, mode="black")
        assert (crops == before).all()
        assert not np.shares_memory(filled, crops)
        assert not np.shares_memory(black, crops)
        assert (retained == ~found).all()
        assert (same == ~found).all()
        assert (filled[found] == crops[found]).all()
        assert (black[found] == crops[found]).all()
        assert not black[~found].any()
        if not found.any():
            assert not filled.any()
            return
        for k in np.flatnonzero(~found):
            earlier = np.flatnonzero(found[:k])
            source = earlier[-1] if len(earlier) else np.flatnonzero(found)[0]
            assert (filled[k] == crops[source]).all()
        again, _ = retain(filled, np.ones(found.size, bool))
        assert (again == filled).all()

    def test_dtype_is_kept(self):
        for mode in ("retain", "black"):
            filled, retained = retain(np.ones((3, 5, 5, 3), np.uint8), np.array([False, True, False]), mode=mode)
            assert (filled.dtype, filled.shape, retained.dtype) == (np.uint8, (3, 5, 5, 3), np.bool_)

    def test_arguments_are_checked(self):
        crops = np.zeros((3, 2))
        with pytest.raises(ValueError, match="one bool for every crop"):
            retain(crops, np.array([True, False]))
        with pytest.raises(ValueError, match="float64"):
            retain(crops, np.ones(3))
        with pytest.raises(ValueError, match="mode is 'repeat'"):
            retain(crops, np.ones(3, bool), mode="repeat")


class TestFaceCrops:
    def test_from_a_video_to_crops(self, make_video, face_image, face_box):
        places = [None, ((90, 100), 80), ((93, 101), 80), None, None, ((99, 103), 81), ((102, 104), 82)]
        images = [face_image(face_px=0) if place is None else face_image(*place) for place in places]
        path = make_video("clip.mp4", images, codec_options={"crf": "12"})
        # Chunks of 4 frames, in batches of 2.
        clip = face_crops(read_frames(path), FaceDetector(min_face_size=60, batch_size=2), size=37, margin=0.2)
        np.testing.assert_allclose(clip.times_s, np.arange(7) / 25)
        assert clip.found.tolist() == [place is not None for place in places]
        assert clip.crops.shape == (7, 37, 37, 3)
        assert not clip.crops[~clip.found].any()
        for k in np.flatnonzero(clip.found):
            wanted = crop_face(images[k], clip.detections.boxes[k], size=37, margin=0.2)
            assert np.abs(clip.crops[k].astype(int) - wanted).mean() < 5
            assert overlap(clip.detections.boxes[k], face_box(*places[k])) > 0.7
        filled, retained = retain(clip.crops, clip.found)
        assert (filled[0] == clip.crops[1]).all()
        assert (filled[4] == clip.crops[2]).all()
        assert retained.tolist() == (~clip.found).tolist()

    def test_few_frames_are_held(self, monkeypatch):
        alive, most = set(), 0

        def frames():
            nonlocal most
            for k in range(200):
                frame = Frame(k / 25, np.zeros((15, 21, 3), np.uint8))
                alive.add(k)
                most = max(most, len(alive))
                yield frame

        detect = FaceDetector.detect

        def spy(self, images, every):
            found = detect(self, images, every=every)
            alive.clear()
            return found

        monkeypatch.setattr(FaceDetector, "detect", spy)
        clip = face_crops(frames(), FaceDetector(batch_size=7), every=3, size=11)
        assert clip.crops.shape == (200, 11, 11, 3)
        assert most <= 14

    def test_a_clip_without_frames(self, detector):
        clip = face_crops([], detector, size=11)
        assert (clip.times_s.shape, clip.crops.shape, clip.found.shape) == ((0,), (0, 11, 11, 3), (0,))

    def test_what_is_wrong_with_the_video_is_heard(self, make_video, face_image, detector):
        path = make_video("clip.mp4", [face_image(face_px=0)] * 9, container_options={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(DatasetError, match="truncated"):
            face_crops(read_frames(path), detector)
