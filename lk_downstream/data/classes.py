"""Class names and colours of the benchmark data sets, as their makers publish them."""

from __future__ import annotations

import colorsys

Palette = list[tuple[int, int, int]]


def _table(text: str) -> tuple[tuple[str, ...], Palette]:
    """Names and colours of a table with the columns red, green, blue, name."""
    rows = [line.split(maxsplit=3) for line in text.strip().splitlines()]
    return tuple(row[3] for row in rows), [(int(row[0]), int(row[1]), int(row[2])) for row in rows]


def default_palette(count: int) -> Palette:
    """Distinct colours for ``count`` classes that come without any (the bit-reversal colours of PASCAL VOC, from 1).

    Bits 0, 1, 2 of the class number become the highest bits of red, green and blue, bits 3, 4, 5 the next ones, so
    that neighbours in number are far apart in colour.
    """
    palette = []
    for number in range(1, count + 1):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        palette.append((channels[0], channels[1], channels[2]))
    return palette


# ADE20K, scene parsing (Zhou et al., 2017): the class in line i (from 1) has the value i in the annotation files.
ADE20K_CLASSES, ADE20K_PALETTE = _table("""
120 120 120 wall
180 120 120 building
6 230 230 sky
80 50 50 floor
4 200 3 tree
120 120 80 ceiling
140 140 140 road
204 5 255 bed
230 230 230 windowpane
4 250 7 grass
224 5 255 cabinet
235 255 7 sidewalk
150 5 61 person
120 120 70 earth
8 255 51 door
255 6 82 table
143 255 140 mountain
204 255 4 plant
255 51 7 curtain
204 70 3 chair
0 102 200 car
61 230 250 water
255 6 51 painting
11 102 255 sofa
255 7 71 shelf
255 9 224 house
9 7 230 sea
220 220 220 mirror
255 9 92 rug
112 9 255 field
8 255 214 armchair
7 255 224 seat
255 184 6 fence
10 255 71 desk
255 41 10 rock
7 255 255 wardrobe
224 255 8 lamp
102 8 255 bathtub
255 61 6 railing
255 194 7 cushion
255 122 8 base
0 255 20 box
255 8 41 column
255 5 153 signboard
6 51 255 chest of drawers
235 12 255 counter
160 150 20 sand
0 163 255 sink
140 140 140 skyscraper
250 10 15 fireplace
20 255 0 refrigerator
31 255 0 grandstand
255 31 0 path
255 224 0 stairs
153 255 0 runway
0 0 255 case
255 71 0 pool table
0 235 255 pillow
0 173 255 screen door
31 0 255 stairway
11 200 200 river
255 82 0 bridge
0 255 245 bookcase
0 61 255 blind
0 255 112 coffee table
0 255 133 toilet
255 0 0 flower
255 163 0 book
255 102 0 hill
194 255 0 bench
0 143 255 countertop
51 255 0 stove
0 82 255 palm
0 255 41 kitchen island
0 255 173 computer
10 0 255 swivel chair
173 255 0 boat
0 255 153 bar
255 92 0 arcade machine
255 0 255 hovel
255 0 245 bus
255 0 102 towel
255 173 0 light
255 0 20 truck
255 184 184 tower
0 31 255 chandelier
0 255 61 awning
0 71 255 streetlight
255 0 204 booth
0 255 194 television receiver
0 255 82 airplane
0 10 255 dirt track
0 112 255 apparel
51 0 255 pole
0 194 255 land
0 122 255 bannister
0 255 163 escalator
255 153 0 ottoman
0 255 10 bottle
255 112 0 buffet
143 255 0 poster
82 0 255 stage
163 255 0 van
255 235 0 ship
8 184 170 fountain
133 0 255 conveyer belt
0 255 92 canopy
184 0 255 washer
255 0 31 plaything
0 184 255 swimming pool
0 214 255 stool
255 0 112 barrel
92 255 0 basket
0 224 255 waterfall
112 224 255 tent
70 184 160 bag
163 0 255 minibike
153 0 255 cradle
71 255 0 oven
255 0 163 ball
255 204 0 food
255 0 143 step
0 255 235 tank
133 255 0 trade name
255 0 235 microwave
245 0 255 pot
255 0 122 animal
255 245 0 bicycle
10 190 212 lake
214 255 0 dishwasher
0 204 255 screen
20 0 255 blanket
255 255 0 sculpture
0 153 255 hood
0 41 255 sconce
0 255 204 vase
41 0 255 traffic light
41 255 0 tray
173 0 255 ashcan
0 245 255 fan
71 0 255 pier
122 0 255 crt screen
0 255 184 plate
0 92 255 monitor
184 255 0 bulletin board
0 133 255 shower
255 214 0 radiator
25 194 194 glass
102 255 0 clock
92 0 255 flag
""")

# Cityscapes (Cordts et al., 2016), in the order of the 19 evaluated classes ("trainId").
CITYSCAPES_CLASSES, CITYSCAPES_PALETTE = _table("""
128 64 128 road
244 35 232 sidewalk
70 70 70 building
102 102 156 wall
190 153 153 fence
153 153 153 pole
250 170 30 traffic light
220 220 0 traffic sign
107 142 35 vegetation
152 251 152 terrain
70 130 180 sky
220 20 60 person
255 0 0 rider
0 0 142 car
0 0 70 truck
0 60 100 bus
0 80 100 train
0 0 230 motorcycle
119 11 32 bicycle
""")

# The value ("labelId") of each evaluated class in *_gtFine_labelIds.png; the others of 0 to 33 are not evaluated.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# COCO 2017 (Lin et al., 2014): 80 of the ids 1 to 90.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_NAMES = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench
bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard
sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon
bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table
toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors
teddy_bear hair_drier toothbrush
"""
COCO_CLASSES = tuple(name.replace("_", " ") for name in _COCO_NAMES.split())


def bright_palette(count: int) -> Palette:
    """Saturated colours for ``count`` classes whose objects are outlined on images: hues a golden angle apart."""
    colours = (colorsys.hsv_to_rgb((0.99 + 0.618034 * i) % 1, (0.85, 0.6)[i // 8 % 2], 0.95) for i in range(count))
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours]
