"""The features map that each side of a control connection sends first (mesh.md section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_router.errors import ProtocolError
from weave_router.wire import gob
from weave_router.wire.peer_name import InvalidPeerName, PeerName, format_peer_name, parse_peer_name

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FEATURES_BYTES = 8192
MAX_ENTRIES = 64
MAX_NICKNAME_BYTES = 256
MAX_SHORT_ID = 4095
SLEEVE = "sleeve"
VXLAN = "vxlan"
OVERLAY_RANKING = (VXLAN, "fastdp", SLEEVE)
"""The order of every common list: control messages carry an index into it, so it must not depend on who asks."""
QUARANTINE = "ipam-quarantine"
"""Two address rings that contradict each other do not end the connection."""
REMOVAL = "ipam-removal"
"""Peers that are gone are taken over by agreement."""
ABILITIES = (QUARANTINE, REMOVAL)
"""What we can do beyond Weave Net 2.8."""
_SCHEMA = gob.Map(gob.STRING, gob.STRING, limit=MAX_ENTRIES)
_DECIMAL = re.compile(r"[0-9]{1,20}\Z", re.ASCII)
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FeaturesError(ProtocolError):
    """The features map lacks something or says something impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One side's features, read."""

    name: PeerName
    nickname: str
    uid: int
    connection_half: int
    """This side's random half of the connection UID."""
    short_id: int | None = None
    trusted: bool = False
    """Whether this side trusts the network address of the other."""
    overlays: tuple[str, ...] | None = None
    """Data planes offered, best first; None where the key was absent (an old peer: sleeve with bare tags)."""
    ciphers: tuple[str, ...] = ()
    """Data ciphers offered, best first; ours alone (key `Ciphers`), empty toward Weave Net 2.8."""
    abilities: tuple[str, ...] = ()
    """What this side can do beyond Weave Net 2.8; ours alone (key `Abilities`)."""

    def to_map(self) -> dict[str, str]:
        """The map of strings as it is sent."""
        features = {
            "PeerNameFlavour": "mac",
            "Name": format_peer_name(self.name),
            "NickName": self.nickname,
            "UID": str(self.uid),
            "ConnID": str(self.connection_half),
            "Trusted": "true" if self.trusted else "false",
        }
        if self.short_id is not None:
            features["ShortID"] = str(self.short_id)
        if self.overlays is not None:
            features["Overlays"] = " ".join(self.overlays)
        if self.ciphers:
            features["Ciphers"] = " ".join(self.ciphers)
        if self.abilities:
            features["Abilities"] = " ".join(self.abilities)
        return features

    @classmethod
    def from_map(cls, features: Mapping[str, str]) -> Features:
        """Read the peer's map. Unknown keys are ignored. Raises `FeaturesError`."""
        for key in ("PeerNameFlavour", "Name", "NickName", "UID", "ConnID"):
            if key not in features:
                raise FeaturesError(f"the peer's features lack {key}")
        if features["PeerNameFlavour"] != "mac":
            raise FeaturesError(f"the peer's names are of flavour {features['PeerNameFlavour'][:20]!r}, ours of 'mac'")
        try:
            name = parse_peer_name(features["Name"])
        except InvalidPeerName as error:
            raise FeaturesError(str(error)) from error
        nickname = features["NickName"]
        if gob.byte_length(nickname) > MAX_NICKNAME_BYTES:
            raise FeaturesError(f"nickname of {gob.byte_length(nickname)} bytes")
        short_id = _decimal(features, "ShortID", MAX_SHORT_ID) if "ShortID" in features else None
        trusted = features.get("Trusted", "false")
        if trusted not in _TRUE and trusted not in _FALSE:
            raise FeaturesError(f"feature Trusted is {trusted[:20]!r}")
        overlays = features.get("Overlays")
        return cls(
            name=name,
            nickname=nickname,
            uid=_decimal(features, "UID", 2**64 - 1),
            connection_half=_decimal(features, "ConnID", 2**64 - 1),
            short_id=short_id,
            trusted=trusted in _TRUE,
            overlays=None if overlays is None else tuple(overlays.split()),
            ciphers=tuple(features.get("Ciphers", "").split()),
            abilities=tuple(features.get("Abilities", "").split()),
        )


def _decimal(features: Mapping[str, str], key: str, highest: int) -> int:
    text = features[key]
    if not _DECIMAL.match(text) or int(text) > highest:
        raise FeaturesError(f"feature {key} is {text[:24]!r}, not a number up to {highest}")
    return int(text)


def common_overlays(ours: tuple[str, ...], theirs: tuple[str, ...] | None) -> tuple[str, ...]:
    """The overlays of both sides in the fixed ranking; sleeve alone where the peer announced none."""
    if theirs is None:
        return (SLEEVE,)
    return tuple(name for name in OVERLAY_RANKING if name in ours and name in theirs)


def encode_features(features: Mapping[str, str]) -> bytes:
    """The features message."""
    encoder = gob.Encoder()
    encoder.encode(_SCHEMA, dict(features))
    return encoder.getvalue()


def decode_features(message: bytes) -> dict[str, str]:
    """Read a features message. Raises `GobError` or `FeaturesError`."""
    if len(message) > MAX_FEATURES_BYTES:
        raise FeaturesError(f"features of {len(message)} bytes")
    decoder = gob.Decoder(message, max_values=4 * MAX_ENTRIES + 1024)
    features: dict[str, str] = decoder.value(_SCHEMA)
    if not decoder.at_end():
        raise FeaturesError("bytes left over behind the features")
    return features
