"""The address space: a vision system of OPC 40100-1 and the PLC's register table, and how values get into it.

The companion specification's nodeset lies beside this file with its licence; its types are instantiated, not imitated.
Everything is read-only but the table's rows from the PLC. Methods of the state machine and of result management are
there because their types demand them; this server answers them with BadNothingToDo: nobody controls a line from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from asyncua import Node, Server, ua
from asyncua.common.instantiate_util import instantiate

from line_worker.sink.machine_vision import STATES
from line_worker.sink.plc.registers import TABLE, Active, Block, Plc, Result, Row, Station, Stop
from line_worker.verdicts import StationState

COMPANION = "http://opcfoundation.org/UA/MachineVision"
NAMESPACE = "urn:line-worker"
NODESET = "Opc.Ua.MachineVision.NodeSet2.xml"
_TYPES = {
    "system": 1003,
    "results": 1007,
    "automatic": 1021,
    "folder": 1016,
    "ready": 1024,
    "result": 2002,
}  # of the companion
_BASE = "BinaryIdBaseDataType"
_AUTOMATIC = {"Ready": 5057, "ContinuousExecution": 5059}  # states of its automatic mode
_VARIANTS = {"u16": ua.VariantType.UInt16, "u32": ua.VariantType.UInt32, "f32": ua.VariantType.Float}
_ACCESS = (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel)
READ, WRITE = ua.AccessLevel.CurrentRead.mask, ua.AccessLevel.CurrentRead.mask | ua.AccessLevel.CurrentWrite.mask


class Nodes:
    """The nodes of one line; `build` makes them, the rest writes values."""

    def __init__(self, server: Server, line: str) -> None:
        self._server, self._line = server, line
        self._own = self._companion = 0
        self._written: dict[ua.NodeId, Any] = {}  # what the variables hold
        self._state: StationState | None = None
        self._machine = self._automatic = ua.NodeId()
        self._ready: Any = None  # tells that a result is there

    async def build(self, cameras: Iterable[str], *, registers: bool) -> None:
        """Load the companion's types and make the line's objects."""
        loaded = await self._server.import_xml(xmlstring=_nodeset())
        self._companion = await self._server.get_namespace_index(COMPANION)
        self._own = await self._server.register_namespace(NAMESPACE)
        system = await self._make("system", self._server.nodes.objects, self._line, own=True)
        await self._make_states(system)
        await self._make_results(system, cameras)
        await self._lock(loaded)
        await self._lock([found.nodeid for found in await _below(system)])
        if registers:
            await self._make_registers(system)
        kind = self._server.get_node(ua.NodeId(_TYPES["ready"], self._companion))
        self._ready = await self._server.get_event_generator(kind, system)

    def node(self, *path: str) -> ua.NodeId:
        """Return the id of the node at `path` below the line."""
        return ua.NodeId("/".join((self._line, *path)), self._own)

    async def _make(self, kind: str, parent: Node, name: str, *path: str, own: bool = False) -> Node:
        made = await instantiate(
            parent,
            self._server.get_node(ua.NodeId(_TYPES[kind], self._companion)),
            nodeid=self.node(*path),
            bname=ua.QualifiedName(name, self._own if own else self._companion),
            idx=self._own,
            instantiate_optional=kind == "result",
        )
        return made[0]

    async def _make_states(self, system: Node) -> None:
        machine = await system.get_child(f"{self._companion}:VisionStateMachine")
        self._machine = machine.nodeid
        place = ("VisionStateMachine", "AutomaticModeStateMachine")
        self._automatic = (await self._make("automatic", machine, place[1], *place)).nodeid

    async def _make_results(self, system: Node, cameras: Iterable[str]) -> None:
        management = await self._make("results", system, "ResultManagement", "ResultManagement")
        place = ("ResultManagement", "Results")
        folder = await self._make("folder", management, "Results", *place)
        for camera in cameras:
            result = await self._make("result", folder, camera, *place, camera, own=True)
            content = ua.NodeId(f"{result.nodeid.Identifier}.ResultContent", self._own)
            await self._put(content, ua.DataValue(ua.Variant(_ANYTHING)), ua.AttributeIds.DataType)

    async def _make_registers(self, system: Node) -> None:
        folder = await system.add_folder(self.node("Registers"), ua.QualifiedName("Registers", self._own))
        for row in TABLE:
            name = ua.QualifiedName(row.name, self._own)
            default = ua.Variant("" if row.kind.startswith("text") else 0, _variant(row))
            variable = await folder.add_variable(self.node("Registers", row.name), name, default)
            text = ua.LocalizedText(row.meaning, "en")
            await variable.write_attribute(ua.AttributeIds.Description, ua.DataValue(ua.Variant(text)))
            await self._allow(variable.nodeid, WRITE if row.direction == "from PLC" else READ)

    async def _lock(self, nodes: Iterable[ua.NodeId]) -> None:
        """Take away the right to write, which the companion's nodeset gives for nearly everything."""
        for node in nodes:
            await self._allow(node, READ)

    async def _allow(self, node: ua.NodeId, access: int) -> None:
        if self._server.read_attribute_value(node, _ACCESS[0]).StatusCode.is_good():
            for attribute in _ACCESS:
                value = ua.DataValue(ua.Variant(access, ua.VariantType.Byte))
                await self._put(node, value, attribute)

    # ---- values -------------------------------------------------------------------------------------------------

    async def write_registers(self, *blocks: Station | Result | Stop | Active) -> None:
        """Write what has changed of the table's rows to the PLC."""
        for block in blocks:
            for row in _ROWS[type(block)]:
                value = ua.Variant(getattr(block, row.name), _variant(row))
                await self._write(self.node("Registers", row.name), value)

    def read_plc(self) -> Plc:
        """Return what the PLC has written."""
        nodes = {row.name: self.node("Registers", row.name) for row in _ROWS[Plc]}
        return Plc(**{name: self._server.read_attribute_value(node).Value.Value for name, node in nodes.items()})

    def is_plcs(self, node: ua.NodeId) -> bool:
        """Whether `node` is one that the PLC writes."""
        return any(node == self.node("Registers", row.name) for row in _ROWS[Plc])

    def refuse(self, writes: Iterable[ua.WriteValue]) -> None:
        """Have the server refuse as BadTypeMismatch whatever would leave one of the PLC's rows without a value.

        By itself it takes nulls, lists and values of bad status for any type.
        """
        for one in writes:
            if not _is_value(one.Value) and self.is_plcs(one.NodeId):
                one.Value = _NOTHING

    async def write_state(self, state: StationState) -> None:
        """Write the state machines' current states."""
        if state == self._state:
            return
        self._state = state
        named = STATES[state]
        vision = self._server.get_node(self._machine)
        inside = (await vision.get_child(f"{self._companion}:{named.name}")).nodeid
        await self._write_current(self._machine, named.name, inside)
        automatic = ua.NodeId(_AUTOMATIC[named.automatic], self._companion) if named.automatic else None
        await self._write_current(self._automatic, named.automatic, automatic)

    async def _write_current(self, machine: ua.NodeId, name: str, node: ua.NodeId | None) -> None:
        current = await self._server.get_node(machine).get_child("0:CurrentState")
        identity = await current.get_child("0:Id")
        values = (ua.Variant(ua.LocalizedText(name)), ua.Variant(node))
        for variable, value in zip((current, identity), values, strict=True):
            shown = _now(value) if node else ua.DataValue(StatusCode=_NOT_ACTIVE, SourceTimestamp=datetime.now(UTC))
            await self._put(variable.nodeid, shown)

    async def write_result(self, camera: str, result: dict[str, Any]) -> None:
        """Write a camera's newest result, the structure and its members as variables, and tell that it is there."""
        structure = _structure(result)
        top = self.node("ResultManagement", "Results", camera)
        event = self._ready.event
        for name in result:
            member = _member(structure, name)
            await self._write(ua.NodeId(f"{top.Identifier}.{name}", self._own), member)
            setattr(event, name, member.Value)
            event.data_types[name] = member.VariantType  # asyncua knows only some of them
        await self._write(top, ua.Variant(structure))
        await self._ready.trigger(message=f"{camera}: {result['ResultContent'][0]['Verdict']}")

    async def _write(self, node: ua.NodeId, value: ua.Variant) -> None:
        if self._written.get(node) != value:
            self._written[node] = value
            await self._put(node, _now(value))

    async def _put(self, node: ua.NodeId, value: ua.DataValue, attribute: Any = ua.AttributeIds.Value) -> None:
        """Write it; what the address space refuses is a mistake of ours and must not go unseen."""
        status = await self._server.iserver.aspace.write_attribute_value(node, attribute, value)
        if not status.is_good():
            raise ValueError(f"{node.to_string()} does not take {value.Value}: {status.name}")


_ROWS: dict[type[Block], list[Row]] = {
    block: [row for row in TABLE if row.name in block.__dataclass_fields__]
    for block in (Station, Result, Stop, Active, Plc)
}
_ANYTHING = ua.NodeId(ua.ObjectIds.BaseDataType)  # which the nodeset leaves unsaid
_NOTHING = ua.DataValue(ua.Variant(None, ua.VariantType.Null))
_NOT_ACTIVE = ua.StatusCode(ua.StatusCodes.BadStateNotActive)
_MEMBER_TYPES = {"CreationTime": ua.VariantType.DateTime, "ResultState": ua.VariantType.Int32}
_STRUCTURES = {
    "ResultId": "ResultIdDataType",
    "MeasId": "MeasIdDataType",
    "PartId": "PartIdDataType",
    "InternalRecipeId": "RecipeIdInternalDataType",
    "InternalConfigurationId": "ConfigurationIdDataType",
    "JobId": "JobIdDataType",
    "ProcessingTimes": "ProcessingTimesDataType",
}


def _nodeset() -> str:
    """Return the companion's nodeset, in which every structure names the fields that it inherits.

    Those that add none to their base are left without fields in the file, and clients cannot decode what has none.
    """
    text = files(__package__).joinpath(NODESET).read_text("utf-8")
    base = re.search(rf'<Definition Name="1:{_BASE}">(.*?)</Definition>', text, re.DOTALL)
    assert base is not None, "the nodeset beside this file is the one that was shipped"
    fields = base[1]
    return re.sub(
        r'<Definition Name="(1:(?:Recipe|Configuration)Id\w*)" ?/>',
        rf'<Definition Name="\1">{fields}</Definition>',
        text,
    )


def _is_value(found: ua.DataValue) -> bool:
    """Whether `found` is one good value, of whatever type."""
    bad = found.StatusCode is not None and found.StatusCode.is_bad()
    return not bad and found.Value is not None and isinstance(found.Value.Value, int | str)


def _now(value: ua.Variant) -> ua.DataValue:
    return ua.DataValue(value, SourceTimestamp=datetime.now(UTC))


def _variant(row: Row) -> ua.VariantType:
    return _VARIANTS.get(row.kind, ua.VariantType.String)


def _structure(result: dict[str, Any]) -> Any:
    """Return `result` as the companion's ResultDataType."""
    members = dict(result)
    for name, kind in _STRUCTURES.items():
        if name in members:
            members[name] = getattr(ua, kind)(**members[name])
    members["ResultContent"] = [_pair(name, value) for one in result["ResultContent"] for name, value in one.items()]
    return ua.ResultDataType(**members)


def _pair(name: str, value: Any) -> ua.Variant:
    """Return one thing that was found, as a KeyValuePair; regions by their number."""
    kind = ua.VariantType.Double if isinstance(value, float) else None
    shown = ua.Variant(len(value) if isinstance(value, list) else value, kind)
    return ua.Variant(ua.KeyValuePair(ua.QualifiedName(name), shown))


def _member(structure: Any, name: str) -> ua.Variant:
    value = getattr(structure, name)
    if name == "ResultContent":
        return ua.Variant(value, ua.VariantType.Variant, is_array=True)
    return ua.Variant(value, _MEMBER_TYPES.get(name))


async def _below(node: Node) -> list[Node]:
    """Return `node` and everything below it."""
    found = [node]
    for child in await node.get_children():
        found += await _below(child)
    return found
