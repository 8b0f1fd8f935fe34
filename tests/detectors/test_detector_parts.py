"""Parts of the detectors against independent computations."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_detectors import TinyBackbone, box_target, narrow
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder, Matcher

from lk_downstream.detectors import (
    FCOS,
    FPN,
    FasterRCNN,
    FPNSettings,
    IoUAssigner,
    MaskHead,
    MaskRCNN,
    RandomSampler,
    RetinaNet,
    Selection,
    fcos_head,
    matching,
    paste_masks,
    to_original,
)
from lk_downstream.detectors.anchors import AnchorGenerator, grid_points
from lk_downstream.detectors.boxes import DeltaCoder, area, iou
from lk_downstream.detectors.losses import focal_loss, giou_loss
from lk_downstream.detectors.matching import IGNORED, NEGATIVE
from lk_downstream.detectors.roi_align import roi_features
from lk_downstream.detectors.selection import grouped_nms
from lk_downstream.errors import InputError


def random_boxes(count, side=100.0):
    corner = torch.rand(count, 2) * side
    return torch.cat((corner, corner + 2 + torch.rand(count, 2) * side), dim=1)


def test_overlaps_are_torchvisions():
    torch.manual_seed(0)
    first, second = random_boxes(50).double(), random_boxes(50).double()
    torch.testing.assert_close(iou(first[:, None], second), ops.box_iou(first, second))
    generalized = iou(first[:, None], second, generalized=True)
    torch.testing.assert_close(generalized, ops.generalized_box_iou(first, second))
    torch.testing.assert_close(giou_loss(first, second), ops.generalized_box_iou_loss(first, second, reduction="sum"))
    empty = torch.zeros(1, 4)
    assert iou(empty, empty, generalized=True).isfinite().all()


def test_focal_loss_is_torchvisions():
    torch.manual_seed(0)
    logits, targets = torch.randn(40, 5, dtype=torch.float64) * 3, (torch.rand(40, 5) > 0.7).double()
    torch.testing.assert_close(focal_loss(logits, targets), ops.sigmoid_focal_loss(logits, targets, reduction="sum"))


@pytest.mark.parametrize("low_quality", [False, True])
def test_assigner_one_box_at_a_time(low_quality):
    torch.manual_seed(1)
    boxes, objects = random_boxes(300, 60), random_boxes(12, 60)
    objects[5] = objects[4]  # two objects that claim the same box
    found = IoUAssigner(0.6, 0.3, low_quality, minimum_iou=0.2)(boxes, objects).tolist()
    overlaps = ops.box_iou(objects, boxes).tolist()
    for b in range(len(boxes)):
        column = [row[b] for row in overlaps]
        best = max(column)
        expected = column.index(best) if best >= 0.6 else NEGATIVE if best < 0.3 else IGNORED
        if low_quality:
            for g, row in enumerate(overlaps):
                if max(row) >= 0.2 and row[b] == max(row):
                    expected = g
        assert found[b] == expected
    assert {NEGATIVE, IGNORED} < set(found)


@pytest.mark.parametrize("low_quality", [False, True])
def test_assigner_in_pieces_is_the_same(low_quality, monkeypatch):
    torch.manual_seed(2)
    boxes, objects = random_boxes(200, 60), random_boxes(40, 60)
    objects[[7, 20, 39]] = objects[3].clone()  # in several pieces
    assign = IoUAssigner(0.5, 0.3, low_quality, minimum_iou=0.2)
    whole, sizes = assign(boxes, objects), []
    monkeypatch.setattr(matching, "iou", lambda one, other: sizes.append(len(one)) or iou(one, other))
    for pairs, most in ((1, 1), (200 * 7, 7), (200 * 39, 39), (200 * 40, 40)):
        monkeypatch.setattr(matching, "MOST_PAIRS", pairs)
        assert torch.equal(assign(boxes, objects), whole)
        assert max(sizes) == most
        sizes.clear()
    assert len(set(whole.tolist())) > 10


def test_points_in_pieces_are_the_same(monkeypatch):
    torch.manual_seed(0)
    head, boxes = narrow(FCOS).bbox_head, random_boxes(40, 600)
    boxes[[7, 20, 39]] = boxes[3].clone()  # in several pieces
    points = [grid_points((size, size), stride, "cpu") for size, stride in zip((76, 38, 19, 10, 5), head.strides)]
    levels = torch.repeat_interleave(torch.arange(5), torch.tensor([*map(len, points)]))
    sides = head.sides(torch.cat(points)[:, None], boxes)
    low, high = torch.tensor([-1.0, 64, 128, 256, 512]), torch.tensor([64.0, 128, 256, 512, 1e8])
    fits = (sides.amin(-1) > 0) & (sides.amax(-1) >= low[levels][:, None]) & (sides.amax(-1) <= high[levels][:, None])
    expected = torch.where(fits, area(boxes), torch.inf).min(1)[1]  # of all at once
    compared = []
    monkeypatch.setattr(fcos_head, "area", lambda part: compared.append(len(part)) or area(part))
    for pairs, most in ((1, 1), (len(levels) * 7, 7), (len(levels) * 39, 39), (len(levels) * 40, 40)):
        monkeypatch.setattr(matching, "MOST_PAIRS", pairs)
        chosen, objects = head.assign(points, boxes)
        assert torch.equal(chosen, fits.any(1).nonzero().squeeze(1))
        assert torch.equal(objects, expected[chosen])
        assert max(compared) == most
        compared.clear()
    assert len(set(objects.tolist())) > 10


def test_sampler_fills_up_with_negatives():
    matched = torch.tensor([3] * 40 + [NEGATIVE] * 500 + [IGNORED] * 100)
    positive, negative = RandomSampler(64, 0.25)(matched)
    assert (len(positive), len(negative)) == (16, 48)
    assert (matched[positive] == 3).all()
    assert (matched[negative] == NEGATIVE).all()
    assert len(set(negative.tolist())) == 48
    positive, negative = RandomSampler(64, 0.25)(matched[30:])
    assert (len(positive), len(negative)) == (10, 54)


def test_coder_there_and_back():
    torch.manual_seed(2)
    references, boxes = random_boxes(100).double(), random_boxes(100).double()
    coder = DeltaCoder((0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(coder.decode(references, coder.encode(references, boxes)), boxes)
    huge = coder.decode(references, torch.full((100, 4), 1e4, dtype=torch.float64))
    grown = (huge[:, 2:] - huge[:, :2]) / (references[:, 2:] - references[:, :2])
    torch.testing.assert_close(grown, torch.full_like(grown, 62.5))


def test_anchors_are_not_rounded_and_keep_their_strides():
    generator = AnchorGenerator((4, 64), (8.0,), (0.5, 1.0, 2.0))
    fine, coarse = generator([(2, 3), (13, 21)], torch.device("cpu"))
    torch.testing.assert_close(fine[1], torch.tensor([-16.0, -16, 16, 16]))
    half = 16 * math.sqrt(2)
    torch.testing.assert_close(fine[3], torch.tensor([4 - half, -half / 2, 4 + half, half / 2]))
    assert coarse[-2].tolist() == [20 * 64 - 256, 12 * 64 - 256, 20 * 64 + 256, 12 * 64 + 256]
    flags = generator.within([(64, 96), (4, 6)], (100, 130), 32, torch.device("cpu"))  # padded alone: 128 x 160
    assert flags[: 64 * 96 * 3].view(64, 96, 3).all(2).sum() == 32 * 40
    assert flags[64 * 96 * 3 :].view(4, 6, 3).all(2).sum() == 2 * 3
    assert grid_points((1, 2), 8, torch.device("cpu")).tolist() == [[4.0, 4.0], [12.0, 4.0]]


def test_nms_on_both_sides_of_its_limit():
    torch.manual_seed(3)
    for count in (500, 10_500):
        boxes, scores, groups = random_boxes(count), torch.rand(count), torch.randint(0, 5, (count,))
        kept = grouped_nms(boxes, scores, groups, 0.5)
        alone = []
        for index in ((groups == g).nonzero().squeeze(1) for g in range(5)):
            alone += index[ops.nms(boxes[index], scores[index], 0.5)].tolist()
        assert sorted(kept.tolist()) == sorted(alone)
        assert (scores[kept].diff() <= 0).all()


def test_the_two_rules_of_preselection():
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.1], [0.6, 0.5], [0.01, 0.02]])
    factors = torch.tensor([0.1, 0.9, 0.9, 1.0])
    pairs = Selection(per_level=3, rule="pairs").candidates(scores, factors)
    assert list(zip(*(x.tolist() for x in pairs))) == [(0, 0), (0, 1), (1, 0)]
    # two points, by score times factor, with all their classes above the threshold
    points = Selection(per_level=2, rule="points").candidates(scores, factors)
    assert sorted(zip(*(x.tolist() for x in points))) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    few = Selection(per_level=10, rule="points").candidates(scores, factors)
    assert sorted(zip(*(x.tolist() for x in few))) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_selection_drops_empty_boxes_and_keeps_the_best():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [5, 5, 5, 9], [20, 20, 30, 30], [0, 0, 10, 10]])
    scores, labels = torch.tensor([0.5, 0.9, 1.0, 0.4, 0.3]), torch.tensor([0, 0, 0, 0, 1])
    found = Selection(keep=2).finish(boxes, scores, labels)
    assert found["boxes"].tolist() == [[0, 0, 10, 9], [20, 20, 30, 30]]
    assert len(Selection(keep=9).finish(boxes, scores, labels)["boxes"]) == 3
    assert len(Selection(keep=9).finish(boxes, scores, labels, drop_empty=False)["boxes"]) == 4


def test_regions_are_read_from_the_level_of_their_size():
    maps = [torch.full((2, 1, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    maps[1][1] = 80
    sides = torch.tensor([20.0, 111.0, 112.0, 223.0, 240.0, 112.0])
    rois = torch.stack((torch.tensor([0.0, 0, 0, 0, 0, 1]), *[torch.zeros(6)] * 2, sides, sides), dim=1)
    features = roi_features(maps, (4, 8, 16, 32), rois, 7)
    assert features.shape == (6, 1, 7, 7)
    assert features.amax((1, 2, 3)).tolist() == [4, 4, 8, 8, 16, 80]


def test_an_object_takes_its_best_region_from_another_only_in_mask_rcnn():
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]]), "labels": torch.tensor([0, 1])}
    proposals = torch.tensor([[0.0, 0, 10, 7.9]])  # nearer to the first object, but the second has no better region
    for cls, expected in ((MaskRCNN, 1), (FasterRCNN, 0)):
        samples = narrow(cls).roi_head.sample(0.5, proposals, target)
        assert samples.boxes[2].tolist() == proposals[0].tolist()
        assert samples.objects.tolist() == [0, 1, expected]
        assert samples.labels.tolist() == [0, 1, expected]
        assert samples.is_object.tolist() == [True, True, False]


def test_padding_of_masks_does_not_count():
    detector, images = narrow(MaskRCNN), torch.randn(1, 3, 64, 64)
    target = box_target([[57, 47, 60, 50]], 50, 60)  # in the corner, where half a pixel beyond the edge is read, twice
    padded = {**target, "masks": F.pad(target["masks"], (0, 4, 0, 14))}
    rois = (torch.tensor([[57.0, 47, 60, 50]]), torch.tensor([0]))
    assert MaskHead.targets(target["masks"], *rois).mean() > MaskHead.targets(padded["masks"], *rois).mean()
    losses = []
    for case in (target, padded):
        torch.manual_seed(0)
        losses.append(detector(images, [(50, 60)], [case]))
    assert losses[0] == losses[1]


def test_pasted_masks():
    full, half = torch.ones(28, 28), torch.zeros(28, 28)
    half[:, :14] = 1
    boxes = torch.tensor([[10.0, 20, 30, 40], [10, 20, 30, 40], [-5, -5, 5, 5], [7, 7, 7, 9], [90, 90, 95, 99]])
    masks = paste_masks(torch.stack([full, half, full, full, full]), boxes, (50, 60))
    assert masks.shape == (5, 50, 60)
    expected = torch.zeros(5, 50, 60, dtype=torch.bool)
    expected[0, 20:40, 10:30] = True
    expected[1, 20:40, 10:20] = True
    expected[2, :5, :5] = True
    assert (masks != expected).flatten(1).sum(1).tolist() == [0, 0, 0, 0, 0]
    found = to_original({"boxes": boxes, "scores": boxes[:, 0], "labels": boxes[:, 0]}, (50, 60), (2.0, 4.0))
    assert found["boxes"][0].tolist() == [5, 5, 15, 10]


def test_neck_refuses_a_backbone_that_does_not_fit():
    backbone = TinyBackbone()
    with pytest.raises(InputError, match="finest_stride"):
        FPN(backbone.channels[:1], backbone.strides[:1], FPNSettings(finest_stride=8))
    with pytest.raises(InputError, match="levels"):
        FPN(backbone.channels, backbone.strides, FPNSettings(levels=3))
    assert narrow(FCOS).neck.strides == (8, 16, 32, 64, 128)
    assert len(narrow(FCOS).neck.lateral_convs) == 3


def test_retinanet_has_mmdets_names():
    keys = {key.rsplit(".", 1)[0] for key in narrow(RetinaNet).state_dict() if not key.startswith("backbone")}
    convs = {f"bbox_head.{branch}_convs.{i}.conv" for branch in ("cls", "reg") for i in range(4)}
    laterals = {f"neck.lateral_convs.{i}.conv" for i in range(3)}
    outputs = {f"neck.fpn_convs.{i}.conv" for i in range(5)}
    assert keys == convs | laterals | outputs | {"bbox_head.retina_cls", "bbox_head.retina_reg"}


def test_retinanet_loss_by_torchvisions_parts():
    torch.manual_seed(4)
    detector = narrow(RetinaNet)
    images = torch.randn(2, 3, 128, 128)
    targets = [box_target([[5, 9, 60, 50], [70, 64, 120, 127]]), box_target([[30, 30, 64, 62]])]
    losses = detector(images, [(128, 128)] * 2, targets)

    outputs = detector.bbox_head(detector.neck(detector.backbone(images)))
    anchors = torch.cat(outputs.anchors)
    matcher, coder = Matcher(0.5, 0.4, allow_low_quality_matches=True), BoxCoder((1.0, 1.0, 1.0, 1.0))
    cls_loss, box_loss, count = 0, 0, 0
    for i, target in enumerate(targets):
        matched = matcher(ops.box_iou(target["boxes"], anchors))
        positive = matched >= 0
        wanted = torch.zeros(len(anchors), 3)
        wanted[positive, target["labels"][matched[positive]]] = 1
        counted = matched != Matcher.BETWEEN_THRESHOLDS
        logits, deltas = torch.cat(outputs.logits, 1)[i], torch.cat(outputs.deltas, 1)[i]
        cls_loss += ops.sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum")
        encoded = coder.encode_single(target["boxes"][matched[positive]], anchors[positive])
        box_loss += (deltas[positive] - encoded).abs().sum()
        count += int(positive.sum())
    assert count > 10
    assert losses["loss_cls"].item() == pytest.approx(cls_loss.item() / count, rel=1e-5)
    assert losses["loss_bbox"].item() == pytest.approx(box_loss.item() / count, rel=1e-5)
