"""The register table as a program for the PLC: a function block in Structured Text (IEC 61131-3) to begin with.

It is `PlcProgram` in the PLC's own language, for one part at a time: reject by default, a window for each part, the
station's heartbeat, synchronisation, acknowledgement, stop-line. It uses what every vendor has (TON, R_TRIG, WORD
arithmetic), and gets and gives the registers as two arrays, because how they get there differs between vendors.
Every index comes from the table.
"""

from __future__ import annotations

from line_worker.sink.plc.registers import FROM_PLC, MAP_VERSION, TABLE, TO_PLC, Code

_LAST_TO, _LAST_FROM = len(TO_PLC) - 1, len(FROM_PLC) - 1

_HEAD = """\
(* One station of line-worker, register map version {version}, for one part at a time.

{exchange}

   Part: TRUE while a part is at the camera's trigger; PartId: its id, two characters a word, zeros behind it, or all
   zeros. Recipe: number of the recipe that should inspect, 0 to leave it as it is. A part's verdict is in Accept once
   Decided is TRUE. Whatever happens, Accept is FALSE until a PASS for this very part has come within Window. Stop the
   line while StopLine. *)
FUNCTION_BLOCK FB_LineWorker
VAR_INPUT
    Connected : BOOL;
    Part : BOOL;
    PartId : ARRAY [0..15] OF WORD;
    Recipe : WORD;
    FromStation : ARRAY [0..{to_last}] OF WORD;
    Window : TIME := T#{window_ms}MS;
END_VAR
VAR_OUTPUT
    Accept : BOOL;
    Decided : BOOL;
    StopLine : BOOL;
    Trusted : BOOL;
    ToStation : ARRAY [0..{from_last}] OF WORD;
END_VAR
"""

_REGISTERS = """\
   Every cycle: read holding registers {first_to} to {last_to} into FromStation in ONE request, call this block, and
   write ToStation to registers {first_from} to {last_from} in ONE request. Connected: both were answered."""

_MEMORY = """\
   Every cycle: copy the array that the station writes to a copy of its own in one go (CPS in a Logix controller), call
   this block with that copy as FromStation, and copy ToStation to the array that the station reads. Connected: TRUE."""

_BODY = """\
VAR
    Silence : TON;
    Beat : TON;
    WindowTimer : TON;
    PartEdge : R_TRIG;
    Waiting : BOOL;
    Good : BOOL;
    LastHeartbeat : WORD;
    LastToggle : WORD;
    SyncEcho : WORD;
    OurHeartbeat : UINT;
    Triggers : UDINT;
    NewSeq : DWORD;
    NewTrigger : DWORD;
    LastSeq : DWORD;
    LastEpoch : WORD;
    SeenAny : BOOL;
END_VAR

(* the station: its heartbeat must move within a second *)
Silence(IN := NOT Connected OR (FromStation[HEARTBEAT] = LastHeartbeat), PT := T#1S);
LastHeartbeat := FromStation[HEARTBEAT];
Trusted := Connected AND NOT Silence.Q AND (FromStation[MAP_VERSION] = {version}) AND (FromStation[FAULT] = 0);

(* our own heartbeat: the station lets nothing pass without it *)
Beat(IN := NOT Beat.Q, PT := T#100MS);
IF Beat.Q THEN
    OurHeartbeat := OurHeartbeat + 1;
END_IF;

(* a part has come: it is a reject until proved otherwise; one that still waits has lost its chance *)
PartEdge(CLK := Part);
IF PartEdge.Q THEN
    Triggers := Triggers + 1;
    Accept := FALSE;
    Decided := FALSE;
    Waiting := TRUE;
    WindowTimer(IN := FALSE, PT := Window);
END_IF;
WindowTimer(IN := Waiting, PT := Window);
IF WindowTimer.Q THEN
    Waiting := FALSE;
    Decided := TRUE;
END_IF;

IF Connected AND (FromStation[MAP_VERSION] = {version}) AND (FromStation[SYNC] <> 0) THEN
    IF FromStation[SYNC] <> SyncEcho THEN
        (* the station has started, or a fault is over: drop what is open and begin again *)
        IF Waiting THEN
            Waiting := FALSE;
            Decided := TRUE;
        END_IF;
        SyncEcho := FromStation[SYNC];
        LastToggle := FromStation[TOGGLE];
    ELSIF FromStation[TOGGLE] <> LastToggle THEN
        (* a new result: it counts only for the part that waits *)
        NewSeq := SHL(WORD_TO_DWORD(FromStation[SEQ]), 16) OR WORD_TO_DWORD(FromStation[SEQ + 1]);
        NewTrigger := SHL(WORD_TO_DWORD(FromStation[TRIGGERED]), 16) OR WORD_TO_DWORD(FromStation[TRIGGERED + 1]);
        Good := Trusted AND (FromStation[VERDICT] = {passed});
        Good := Good AND ((FromStation[VERDICT] XOR FromStation[COMPLEMENT]) = 16#FFFF);
        IF SeenAny AND (FromStation[EPOCH16] = LastEpoch) THEN
            Good := Good AND (DWORD_TO_UDINT(NewSeq) > DWORD_TO_UDINT(LastSeq));
        END_IF;
        IF Waiting AND ((NewTrigger = 0) OR (DWORD_TO_UDINT(NewTrigger) = Triggers)) THEN
            (* 0: the camera does not count triggers; then no second part may come before the first is decided *)
            Accept := Good;
            Decided := TRUE;
            Waiting := FALSE;
        END_IF;
        LastSeq := NewSeq;
        LastEpoch := FromStation[EPOCH16];
        SeenAny := TRUE;
        LastToggle := FromStation[TOGGLE];
        ToStation[ACK_SEQ] := FromStation[SEQ];
        ToStation[ACK_SEQ + 1] := FromStation[SEQ + 1];
        ToStation[ACK_TOGGLE] := FromStation[TOGGLE];
    END_IF;
    StopLine := FromStation[STOP_LINE] <> 0;
END_IF;

{part_id}
ToStation[RECIPE_WANTED] := Recipe;
ToStation[PLC_HEARTBEAT] := UINT_TO_WORD(OurHeartbeat);
ToStation[SYNC_ECHO] := SyncEcho;
ToStation[TRIGGERS_COUNT] := DWORD_TO_WORD(SHR(UDINT_TO_DWORD(Triggers), 16));
ToStation[TRIGGERS_COUNT + 1] := DWORD_TO_WORD(UDINT_TO_DWORD(Triggers) AND 16#FFFF);
END_FUNCTION_BLOCK
"""

# the block has variables of these names, and upper and lower case are one to a PLC
_RENAMED = {"trigger": "TRIGGERED", "triggers": "TRIGGERS_COUNT", "recipe": "ACTIVE_RECIPE"}


def as_structured_text(base: int | None = 0, window_ms: int = 500) -> str:
    """Return the function block for a part that has `window_ms` unless told otherwise.

    `base` is where the map's holding registers begin; None: the station writes into the PLC's memory.
    """
    head = _HEAD.format(
        version=MAP_VERSION, window_ms=window_ms, to_last=_LAST_TO, from_last=_LAST_FROM, exchange=_exchange(base)
    )
    body = _BODY.format(version=MAP_VERSION, passed=f"16#{Code.PASS:04X}", part_id=_part_id())
    return "\n".join([head.rstrip("\n"), _constants(), body.rstrip("\n")]) + "\n"


def _part_id() -> str:
    """Return the copying of the part's id, register by register: loops differ between vendors."""
    width = next(row.width for row in TABLE if row.name == "next_part")
    return "\n".join(f"ToStation[NEXT_PART + {n}] := PartId[{n}];" for n in range(width))


def _exchange(base: int | None) -> str:
    if base is None:
        return _MEMORY
    return _REGISTERS.format(
        first_to=base + TO_PLC.start,
        last_to=base + TO_PLC.stop - 1,
        first_from=base + FROM_PLC.start,
        last_from=base + FROM_PLC.stop - 1,
    )


def _constants() -> str:
    """Return every row's place in its array as a constant, with what the row means."""
    lines = ["VAR CONSTANT"]
    for row in TABLE:
        offset = row.offset - (FROM_PLC.start if row.direction == "from PLC" else TO_PLC.start)
        name = _RENAMED.get(row.name, row.name.upper())
        lines.append(f"    {name} : INT := {offset}; (* {row.kind}, {row.direction}: {row.meaning} *)")
    return "\n".join([*lines, "END_VAR"])
