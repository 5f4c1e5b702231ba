"""What a user writes, as values: the lab, its kernels, its scenarios, their steps.

Every class here is a shape of ``lab.yaml`` or of a scenario file; the field
descriptions are the reference of the language (and of its JSON schema). Reading a
file into these, with positions for every error, is ``labfile``'s work.
"""

from __future__ import annotations

import datetime
import difflib
import errno
import functools
import operator
import re
import signal
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from orchestrator.plan.linear import LinearPattern
from orchestrator.plan.version import KernelVersion, VersionRange
from orchestrator.plan.visible import clip, visible

# Limits that keep a stranger's file from exhausting the host; far above honest use.
MAX_STEPS = 500
MAX_DATA_BYTES = 1 << 20
MAX_REGEX = 500
MAX_ALLOWED = 100
MAX_TITLE = 60
MAX_ARGUMENTS = 100
MAX_ARGUMENT_BYTES = 16384
MAX_COLLECT = 50


class RefusedError(ValueError):
    """What a validator here says of a value, in the user's words, with a hint if it has one.

    A hint that takes work to find may be a function: it is called only if it is shown.
    """

    def __init__(self, message: str, *, hint: str | Callable[[], str] = "") -> None:
        super().__init__(message)
        self.hint = hint


# --- texts -------------------------------------------------------------------------------


def as_written(raw: Any) -> Any:
    """A plain number or truth value of a file as the text that stands there, for text fields.

    ``version: 6.10`` means the text "6.10", which the number 6.1 no longer knows.
    """
    if isinstance(raw, bool):
        return "true" if raw else "false"
    written = getattr(raw, "source", None)
    return written if isinstance(written, str) else raw


def _known_errno(name: str) -> str:
    if not hasattr(errno, name):
        raise RefusedError(
            f"there is no error {name!r}", hint=lambda: did_you_mean(name, dir(errno))
        )
    return name


def _known_signal(name: str) -> str:
    if name not in signal.Signals.__members__:
        raise RefusedError(
            f"there is no signal {name!r}",
            hint=lambda: did_you_mean(name, signal.Signals.__members__),
        )
    return name


def _known_version(text: str) -> str:
    try:
        KernelVersion.parse(text)
    except ValueError as error:
        raise RefusedError(str(error)) from None
    return text


def did_you_mean(text: str, candidates: Iterable[str]) -> str:
    """A hint that names the candidate most like ``text``, or nothing if none is like it."""
    close = difflib.get_close_matches(text, list(candidates), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _compiles(regex: str) -> str:
    try:
        with warnings.catch_warnings():
            # What Python may change its mind about one day is no error of this file.
            warnings.simplefilter("ignore")
            re.compile(regex, re.MULTILINE)
    except RecursionError:
        raise RefusedError("not a regular expression: nested too deep") from None
    except (re.error, OverflowError) as error:
        raise RefusedError(f"not a regular expression: {error}") from None
    return regex


def _is_linear(regex: str) -> str:
    try:
        pattern = LinearPattern(regex)
    except RecursionError:
        raise RefusedError("not a regular expression: nested too deep") from None
    except (ValueError, OverflowError) as error:
        raise RefusedError(str(error)) from None
    if pattern.search(""):
        raise RefusedError("it fits every line, so it would allow every complaint")
    return regex


def _real_date(text: str) -> str:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise RefusedError(f"there is no day {text}") from None
    return text


def hex_to_bytes(digits: str) -> bytes:
    """The bytes of checked hexadecimal digits; blanks may be anywhere, even within a byte."""
    return bytes.fromhex("".join(digits.split()))


def _even_digits(digits: str) -> str:
    if len("".join(digits.split())) % 2:
        raise RefusedError("an odd number of hexadecimal digits: two make a byte")
    return digits


def _bare_option(name: str) -> str:
    if name.startswith("CONFIG_"):
        raise RefusedError(f"options stand here without CONFIG_: {name.removeprefix('CONFIG_')}")
    return name


_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$"
_MODULE = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,54}$"
_OPTION = r"^[A-Z0-9][A-Za-z0-9_]*$"
_PARAMETER = r"^[A-Za-z_][A-Za-z0-9_]{0,79}$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
_PARAMETER_TEXT = r'^[^\x00-\x1f"]*$'
_GUEST_PATH = r"^/[^\x00\n]*$"
_COMMAND = r"^[^\x00]*$"
_ARGUMENT = r"^[^\x00]{0,4096}$"
_LINE = r"^[^\x00-\x1f\x7f-\x9f]+$"
_ERRNO = r"^E[A-Z0-9]{1,14}$"
_SIGNAL = r"^SIG[A-Z0-9]{1,9}$"
_SERIES = r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$"
_HEX = r"^[0-9a-fA-F \t\r\n]*$"
_SHA256 = r"^[0-9a-f]{64}$"
_RELEASE = r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}$"
_FILE_NAME = r"^[^\x00-\x1f\x7f-\x9f/-][^\x00-\x1f\x7f-\x9f/]{0,199}$"
_PACKAGE_LINE = r"^[a-z0-9][a-z0-9+.-]*=[A-Za-z0-9.+~:-]+ sha256:[0-9a-f]{64}$"
_URL = r"^https?://[A-Za-z0-9._~:/@%+-]{1,500}$"
_SUITE = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,79})?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIMESTAMP = r"^[0-9]{8}T[0-9]{6}Z$"

PATTERN_WORDS: Mapping[str, str] = {
    _NAME: "a name: up to 80 letters, digits and '.', '_', '+', '-', the first a letter or digit",
    _MODULE: "a module's name: up to 55 letters, digits and '_', '-'",
    _OPTION: "an option of the kernel's configuration, without CONFIG_: capitals, digits and '_'",
    _PARAMETER: "a parameter's name: letters, digits and '_'",
    _VARIABLE: "an environment variable's name: letters, digits and '_'",
    _PARAMETER_TEXT: "a parameter's value: text without double quotes and control characters",
    _GUEST_PATH: "a path in the guest: it begins with '/'",
    _COMMAND: "a command: text without NUL characters",
    _ARGUMENT: "an argument: up to 4096 characters, none of them NUL",
    _LINE: "one line of text, without control characters",
    _ERRNO: "an error's name, such as 'EINVAL'",
    _SIGNAL: "a signal's name, such as 'SIGTERM'",
    _SERIES: "a version: numbers with points between, such as '6.1'",
    _HEX: "hexadecimal digits and blanks",
    _SHA256: "a SHA-256: 64 hexadecimal digits",
    _RELEASE: "what `uname -r` says: letters, digits and '.', '_', '+', '~', '-'",
    _FILE_NAME: "a file's name: one line without '/', the first character no '-'",
    _PACKAGE_LINE: "a package: its name, '=', its version, ' sha256:' and 64 hexadecimal digits",
    _URL: "an address that begins with http:// or https://, without '?' and '#'",
    _SUITE: "a suite: a name, or two with a slash between",
    _DATE: "a date, written like 2024-06-30",
    _TIMESTAMP: "a moment in UTC, written like 20240630T120000Z",
}
"""Every pattern of the language, as what it allows in words: for error messages."""

# Last in each, so that it comes first, and so that pydantic still sees a plain string to
# put the limits on.
_WRITTEN = BeforeValidator(as_written)

Text = Annotated[str, _WRITTEN]
FilledText = Annotated[str, Field(min_length=1), _WRITTEN]

Name = Annotated[str, Field(pattern=_NAME), _WRITTEN]
"""A name that is also safe as a file name."""

ModuleName = Annotated[str, Field(pattern=_MODULE), _WRITTEN]
"""A module as ``modprobe`` names it (``MODULE_NAME_LEN``, with the NUL, is 56 on 64-bit)."""

OptionName = Annotated[
    str, Field(pattern=_OPTION, max_length=100), AfterValidator(_bare_option), _WRITTEN
]
"""An option of the kernel's configuration, without ``CONFIG_``."""

ParameterName = Annotated[str, Field(pattern=_PARAMETER), _WRITTEN]
GuestPath = Annotated[str, Field(pattern=_GUEST_PATH, max_length=1024), _WRITTEN]
LabPath = Annotated[str, Field(pattern=_LINE, max_length=1024), _WRITTEN]
"""A path relative to ``lab.yaml``; that it stays below is ``labfile``'s to check."""
Series = Annotated[str, Field(pattern=_SERIES), _WRITTEN]
Line = Annotated[str, Field(pattern=_LINE, max_length=1024), _WRITTEN]
Sha256 = Annotated[str, Field(pattern=_SHA256), _WRITTEN]
Release = Annotated[str, Field(pattern=_RELEASE), _WRITTEN]
"""What ``uname -r`` says, safe as a file name: folders of the cache and of a guest have it."""
Version = Annotated[str, AfterValidator(_known_version), _WRITTEN]
FileName = Annotated[str, Field(pattern=_FILE_NAME), _WRITTEN]
"""What can stand in a folder, and on a command line where it is no option."""
PackageLine = Annotated[str, Field(pattern=_PACKAGE_LINE, max_length=1024), _WRITTEN]
Url = Annotated[str, Field(pattern=_URL), _WRITTEN]
Suite = Annotated[str, Field(pattern=_SUITE), _WRITTEN]
Timestamp = Annotated[str, Field(pattern=_TIMESTAMP), _WRITTEN]
Command = Annotated[str, Field(pattern=_COMMAND, min_length=1, max_length=65536), _WRITTEN]
Argument = Annotated[str, Field(pattern=_ARGUMENT), _WRITTEN]
VariableName = Annotated[str, Field(pattern=_VARIABLE), _WRITTEN]
KernelArgument = Annotated[str, Field(pattern=_LINE, max_length=1024), _WRITTEN]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Settle = Annotated[float, Field(ge=0, le=600)]
ErrnoName = Annotated[str, Field(pattern=_ERRNO), AfterValidator(_known_errno), _WRITTEN]
SignalName = Annotated[str, Field(pattern=_SIGNAL), AfterValidator(_known_signal), _WRITTEN]
Hex = Annotated[
    str,
    Field(pattern=_HEX, max_length=4 * MAX_DATA_BYTES),
    AfterValidator(_even_digits),
    _WRITTEN,
]
Regex = Annotated[
    str, Field(min_length=1, max_length=MAX_REGEX), AfterValidator(_compiles), _WRITTEN
]
LinearRegex = Annotated[
    str,
    Field(min_length=1, max_length=MAX_REGEX),
    AfterValidator(_compiles),
    AfterValidator(_is_linear),
    _WRITTEN,
]
"""A regular expression that ``linear`` takes, so that no text makes it endless."""
Date = Annotated[str, Field(pattern=_DATE), AfterValidator(_real_date), _WRITTEN]


def _text_or_mapping(raw: Any) -> str:
    """The tag of what may be text or a mapping: one error then, not one for each."""
    return "mapping" if isinstance(raw, Mapping | BaseModel) else "text"


class Value(BaseModel):
    """Base of everything here: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )


# --- what a step may expect ------------------------------------------------------------


class Match(Value):
    """What some output must be like. A plain string in its place means ``equals``."""

    equals: Text | None = Field(default=None, description="exactly this text")
    hex: Hex | None = Field(
        default=None, description="exactly these bytes, as hexadecimal digits, blanks ignored"
    )
    contains: tuple[FilledText, ...] = Field(default=(), description="each of these texts occurs")
    lacks: tuple[FilledText, ...] = Field(default=(), description="none of these texts occurs")
    matches: Regex | None = Field(
        default=None,
        description="a regular expression that matches somewhere (Python's `re`, multi-line)",
    )
    size: int | None = Field(default=None, ge=0, description="exactly so many bytes")

    @model_validator(mode="after")
    def _something(self) -> Match:
        if self.equals is not None and self.hex is not None:
            raise RefusedError("`equals` and `hex` both say all of it: only one of them")
        if not (self.contains or self.lacks) and all(
            part is None for part in (self.equals, self.hex, self.matches, self.size)
        ):
            raise RefusedError(f"nothing is checked: it needs one of {_listed(Match.model_fields)}")
        return self


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _plain_as(key: str, raw: Any) -> Any:
    """Plain text in place of a mapping, as the mapping with that text under ``key``."""
    return {key: raw} if isinstance(raw, str) else raw


TextOrMatch = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Match, Tag("mapping")],
    Discriminator(_text_or_mapping),
]


class RunExpect(Value):
    """What a command must do. A plain string in its place means ``stdout``, exactly."""

    plain_key: ClassVar[str] = "stdout"
    status: int | None = Field(
        default=None, ge=0, le=255, description="its exit status (0 unless `signal` is expected)"
    )
    signal: SignalName | None = Field(
        default=None, description="the signal that must have ended it"
    )
    stdout: TextOrMatch | None = Field(default=None, description="what it prints")
    stderr: TextOrMatch | None = Field(default=None, description="what it prints to standard error")
    within: Seconds | None = Field(default=None, description="it takes at most so many seconds")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        return _plain_as(cls.plain_key, raw)

    @model_validator(mode="after")
    def _one_end(self) -> RunExpect:
        if self.status is not None and self.signal is not None:
            raise RefusedError("a command that a signal ends has no status: `status` or `signal`")
        return self


class ReadExpect(Value):
    """What a read must give. A plain string in its place means ``content``, exactly."""

    plain_key: ClassVar[str] = "content"
    content: TextOrMatch | None = Field(default=None, description="the bytes that come back")
    errno: ErrnoName | None = Field(default=None, description="it fails with this error instead")
    within: Seconds | None = Field(default=None, description="it takes at most so many seconds")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        return _plain_as(cls.plain_key, raw)

    @model_validator(mode="after")
    def _one_end(self) -> ReadExpect:
        if self.content is not None and self.errno is not None:
            raise RefusedError("a read that fails gives nothing: `content` or `errno`")
        return self


class WriteExpect(Value):
    """What a write must give. Without one, all bytes must be taken."""

    written: int | None = Field(default=None, ge=0, description="the count that write(2) returns")
    errno: ErrnoName | None = Field(default=None, description="it fails with this error instead")
    within: Seconds | None = Field(default=None, description="it takes at most so many seconds")

    @model_validator(mode="after")
    def _one_end(self) -> WriteExpect:
        if self.written is not None and self.errno is not None:
            raise RefusedError("a write that fails takes nothing: `written` or `errno`")
        return self


class ModuleExpect(Value):
    """What loading or unloading must give. Without one, it must succeed."""

    errno: ErrnoName | None = Field(default=None, description="it fails with this error instead")
    within: Seconds | None = Field(default=None, description="it takes at most so many seconds")


# --- steps -------------------------------------------------------------------------------


class Step(Value):
    """What all steps share."""

    verb: ClassVar[str]
    name: Name | None = Field(
        default=None, description="a name, for `log: {since: …}` and for reports"
    )
    timeout: Seconds | None = Field(
        default=None,
        description="seconds until the step is given up, on KVM; more where guests are emulated",
    )

    @property
    def title(self) -> str:
        """The step in one line, as reports show it."""
        lines = str(getattr(self, self.verb)).splitlines() or [""]
        text = lines[0] if len(lines) == 1 else f"{lines[0]} …"
        return f"{self.verb} {clip(visible(text), MAX_TITLE)}"


def _parameter_kind(raw: Any) -> str:
    if isinstance(raw, bool):
        return "flag"
    # A number that would be written otherwise than it stands in the file stays as it stands.
    as_is = isinstance(raw, int) and as_written(raw) in (raw, str(raw))
    return "number" if as_is else "text"


ParameterValue = Annotated[
    Annotated[str, Field(pattern=_PARAMETER_TEXT, max_length=1024), _WRITTEN, Tag("text")]
    | Annotated[int, Tag("number")]
    | Annotated[bool, Tag("flag")],
    Discriminator(_parameter_kind),
]


class LoadStep(Step):
    """Load a module of this lab, with parameters."""

    verb: ClassVar[str] = "load"
    load: ModuleName = Field(description="the module")
    parameters: Mapping[ParameterName, ParameterValue] = Field(
        default_factory=dict, description="module parameters, as `insmod` takes them"
    )
    expect: ModuleExpect = ModuleExpect()


class UnloadStep(Step):
    """Unload a module."""

    verb: ClassVar[str] = "unload"
    unload: ModuleName = Field(description="the module")
    expect: ModuleExpect = ModuleExpect()


class RunStep(Step):
    """Run a shell command in the guest, as root unless `user` says otherwise."""

    verb: ClassVar[str] = "run"
    run: Command = Field(description="the command, for `sh -c`")
    stdin: Text = Field(default="", max_length=MAX_DATA_BYTES, description="what it reads")
    user: int | None = Field(default=None, ge=0, le=65534, description="the user id to run it as")
    expect: RunExpect = RunExpect()


class ExecStep(Step):
    """Bring a test program of the lab into the guest and run it; its exit status, and what it
    says as TAP or KTAP, is the verdict.
    """

    verb: ClassVar[str] = "exec"
    exec: LabPath = Field(description="a program, a C source or a folder, relative to `lab.yaml`")
    program: LabPath | None = Field(
        default=None, description="in a folder: the program to run, relative to the folder"
    )
    make: bool = Field(default=False, description="in a folder: run `make` there first")
    arguments: tuple[Argument, ...] = Field(
        default=(), max_length=MAX_ARGUMENTS, description="what it is called with"
    )
    environment: Mapping[VariableName, Argument] = Field(
        default_factory=dict, description="environment variables that it has beside the usual"
    )
    user: int | None = Field(default=None, ge=0, le=65534, description="the user id to run it as")
    output: Literal["auto", "tap", "text"] = Field(
        default="auto",
        description="`tap`: it prints TAP or KTAP; `text`: what it prints is not looked at; "
        "`auto`: it is TAP where a line says so",
    )
    expect: RunExpect = RunExpect()

    @model_validator(mode="after")
    def _bounded(self) -> ExecStep:
        texts = (*self.arguments, *self.environment, *self.environment.values())
        if sum(len(text.encode(errors="surrogatepass")) for text in texts) > MAX_ARGUMENT_BYTES:
            raise RefusedError(
                f"`arguments` and `environment` have more than {MAX_ARGUMENT_BYTES} bytes in all"
            )
        return self

    @property
    def title(self) -> str:
        """The step in one line: the program and its arguments."""
        path = self.exec if self.program is None else f"{self.exec.rstrip('/')}/{self.program}"
        return f"{self.verb} {clip(visible(' '.join((path, *self.arguments))), MAX_TITLE)}"


class ReadStep(Step):
    """Read a file to its end with read(2), like `cat` but exact."""

    verb: ClassVar[str] = "read"
    read: GuestPath = Field(description="the file")
    size: int = Field(default=65536, ge=1, le=1 << 20, description="the buffer: bytes per read(2)")
    offset: int | None = Field(
        default=None, ge=0, le=(1 << 63) - 1, description="one pread(2) at this offset instead"
    )
    expect: ReadExpect = ReadExpect()


class Repeat(Value):
    """A text so many times over."""

    text: FilledText = Field(description="the text")
    times: int = Field(ge=0, le=MAX_DATA_BYTES, description="how many times")

    @model_validator(mode="after")
    def _bounded(self) -> Repeat:
        if len(self.text.encode()) * self.times > MAX_DATA_BYTES:
            raise RefusedError(f"more than {MAX_DATA_BYTES} bytes in all")
        return self


class Data(Value):
    """Bytes to write that are not plain text: `hex` or `repeat`."""

    hex: Hex | None = Field(default=None, description="the bytes, as hexadecimal digits")
    repeat: Repeat | None = Field(default=None, description="a text many times over")

    @model_validator(mode="after")
    def _one(self) -> Data:
        if (self.hex is None) == (self.repeat is None):
            raise RefusedError("it needs exactly one of `hex` and `repeat`")
        return self

    def to_bytes(self) -> bytes:
        """The bytes meant."""
        if self.hex is not None:
            return hex_to_bytes(self.hex)
        assert self.repeat is not None
        return self.repeat.text.encode() * self.repeat.times


DataOrText = Annotated[
    Annotated[str, Field(max_length=MAX_DATA_BYTES), _WRITTEN, Tag("text")]
    | Annotated[Data, Tag("mapping")],
    Discriminator(_text_or_mapping),
]


class WriteStep(Step):
    """Write to a file with one write(2), like `echo` but exact: no newline is added."""

    verb: ClassVar[str] = "write"
    write: GuestPath = Field(description="the file, opened as the shell's `>` does")
    data: DataOrText = Field(description="text, or `hex:` or `repeat:`")
    append: bool = Field(default=False, description="open as the shell's `>>` does")
    offset: int | None = Field(
        default=None, ge=0, le=(1 << 63) - 1, description="one pwrite(2) at this offset instead"
    )
    expect: WriteExpect = WriteExpect()

    @property
    def data_bytes(self) -> bytes:
        """The bytes to write."""
        return self.data.encode() if isinstance(self.data, str) else self.data.to_bytes()


class LogLine(Value):
    """A line that the kernel log must have. A plain string in its place means ``text``."""

    text: FilledText | None = Field(default=None, description="the line contains this text")
    regex: Regex | None = Field(default=None, description="the line matches (Python's `re`)")
    count: int | None = Field(
        default=None, ge=0, description="exactly so many lines do (at least one if absent)"
    )

    @model_validator(mode="after")
    def _one(self) -> LogLine:
        if (self.text is None) == (self.regex is None):
            raise RefusedError("it needs exactly one of `text` and `regex`")
        return self


TextOrLine = Annotated[
    Annotated[FilledText, Tag("text")] | Annotated[LogLine, Tag("mapping")],
    Discriminator(_text_or_mapping),
]


class LogExpect(Value):
    """What the kernel log must and must not say, since a step or the scenario's start."""

    since: Name | None = Field(
        default=None, description="the name of an earlier step: only what was logged from then on"
    )
    has: tuple[TextOrLine, ...] = Field(
        default=(), description="lines that must be there, in order"
    )
    in_any_order: bool = Field(default=False, description="do not mind the order of `has`")
    lacks: tuple[TextOrLine, ...] = Field(default=(), description="lines that must not be there")
    ktap: bool = Field(
        default=False, description="there must be KTAP in it, such as KUnit's, without a failure"
    )

    @model_validator(mode="after")
    def _something(self) -> LogExpect:
        if not (self.has or self.lacks or self.ktap):
            raise RefusedError("nothing is checked: it needs `has`, `lacks` or `ktap`")
        if any(isinstance(line, LogLine) and line.count is not None for line in self.lacks):
            raise RefusedError(
                "`count` has no meaning in `lacks`: the line must not be there at all"
            )
        return self


class LogStep(Step):
    """Compare the kernel log, as the host saw it, with what is expected."""

    verb: ClassVar[str] = "log"
    log: LogExpect

    @property
    def title(self) -> str:
        """The step in one line; its mapping would be too long for it."""
        return f"log since {self.log.since}" if self.log.since else "log"


class BackgroundStep(Step):
    """Start a command that goes on while the next steps run; `end` ends it."""

    verb: ClassVar[str] = "background"
    background: Command = Field(description="the command, for `bash -c`")
    name: Name = Field(description="the name by which `end` finds it")
    until: FilledText | None = Field(
        default=None, description="go on only when it has printed this text"
    )
    user: int | None = Field(default=None, ge=0, le=65534, description="the user id to run it as")


class EndStep(Step):
    """Wait for a background command to end, or send it a signal first."""

    verb: ClassVar[str] = "end"
    end: Name = Field(description="the `name` of a `background` step")
    signal: SignalName | None = Field(default=None, description="send this signal first")
    expect: RunExpect = RunExpect()


def _only_true(raw: Any) -> Any:
    # To Python, and so to Literal, 1 is True.
    if raw is not True:
        raise RefusedError("only `true` can stand here")
    return raw


class RebootStep(Step):
    """Reboot the guest in an orderly way and wait until it is up again; modules are gone then."""

    verb: ClassVar[str] = "reboot"
    reboot: Annotated[Literal[True], BeforeValidator(_only_true)] = Field(
        description="always `true`"
    )

    @property
    def title(self) -> str:
        """The step in one line; that it is true says nothing."""
        return "reboot"


STEP_CLASSES: tuple[type[Step], ...] = (
    LoadStep,
    UnloadStep,
    RunStep,
    ExecStep,
    ReadStep,
    WriteStep,
    LogStep,
    BackgroundStep,
    EndStep,
    RebootStep,
)
STEP_VERBS = tuple(step.verb for step in STEP_CLASSES)


def step_verb(raw: Any) -> str | None:
    """Which kind of step a mapping is: the first of its keys that is a verb, if any."""
    if isinstance(raw, Step):
        return raw.verb
    if isinstance(raw, Mapping):
        return next((key for key in raw if key in STEP_VERBS), None)
    return None


AnyStep = Annotated[
    Annotated[LoadStep, Tag("load")]
    | Annotated[UnloadStep, Tag("unload")]
    | Annotated[RunStep, Tag("run")]
    | Annotated[ExecStep, Tag("exec")]
    | Annotated[ReadStep, Tag("read")]
    | Annotated[WriteStep, Tag("write")]
    | Annotated[LogStep, Tag("log")]
    | Annotated[BackgroundStep, Tag("background")]
    | Annotated[EndStep, Tag("end")]
    | Annotated[RebootStep, Tag("reboot")],
    Discriminator(step_verb),
]

FindingClass = Literal[
    "panic",
    "oops",
    "bug",
    "gpf",
    "warning",
    "kasan",
    "kfence",
    "ubsan",
    "kcsan",
    "lockdep",
    "atomic-sleep",
    "rcu-stall",
    "soft-lockup",
    "hard-lockup",
    "hung-task",
    "list-corruption",
    "refcount",
    "kmemleak",
    "workqueue-stall",
    "stack-overflow",
    "oom",
    "duplicate-name",
    "not-empty",
    "lost-log",
]
"""What can be wrong in a kernel log. The detectors are in ``klog``."""


def _can_be_allowed(kind: FindingClass) -> FindingClass:
    if kind == "panic":
        raise RefusedError(
            "a panic cannot be allowed: the guest is gone, and with it the rest of the scenario",
            hint="a scenario whose point it is has `expect_kernel: [panic]`",
        )
    if kind == "lost-log":
        raise RefusedError(
            "a lost log cannot be allowed: nobody knows what the kernel said in it",
            hint="log less, such as with pr_info_ratelimited()",
        )
    return kind


class AllowEntry(Value):
    """A complaint of the kernel that is known, and does not fail the scenario for a while."""

    pattern: LinearRegex = Field(
        description="a regular expression that fits a line of the complaint (Python's `re`, "
        "without look-around and back references)"
    )
    kind: Annotated[FindingClass, AfterValidator(_can_be_allowed)] | None = Field(
        default=None, description="the class of the complaint; any but `panic` and `lost-log`"
    )
    kernels: Text = Field(
        default="", description="the versions that it is for, as a range; all if absent"
    )
    scenarios: tuple[FilledText, ...] = Field(
        default=(), description="names of scenarios, `*` and `?` allowed; all if absent"
    )
    reason: Line = Field(description="why it is allowed, for the reports")
    until: Date = Field(description="the last day on which it is allowed")


class CollectEntry(Value):
    """What is brought back from the guest. A plain path in its place is that path, not required."""

    path: GuestPath = Field(description="a file or a folder; `*`, `?` and `[…]` as in a shell")
    required: bool = Field(
        default=False, description="`true`: the scenario fails where there is nothing"
    )


TextOrCollect = Annotated[
    Annotated[GuestPath, Tag("text")] | Annotated[CollectEntry, Tag("mapping")],
    Discriminator(_text_or_mapping),
]


class Scenario(Value):
    """Named steps with expectations, for a range of kernels, on modules of the lab."""

    about: Text = Field(default="", max_length=2000, description="what it shows, in a sentence")
    modules: tuple[ModuleName, ...] = Field(
        default=(),
        description="loaded, in this order, before the first step; unloaded after the last",
    )
    kernels: Text = Field(
        default="", description="the versions that it is for, as a range; all if absent"
    )
    needs: tuple[OptionName, ...] = Field(
        default=(),
        description="options that the kernel must be built with, without `CONFIG_`",
    )
    expect_kernel: tuple[FindingClass, ...] = Field(
        default=(),
        description="what the kernel must complain of; anything else still fails the scenario",
    )
    leaves: tuple[GuestPath, ...] = Field(
        default=(), description="names that it may leave behind, `*` and `?` allowed"
    )
    collect: tuple[TextOrCollect, ...] = Field(
        default=(),
        max_length=MAX_COLLECT,
        description="files and folders of the guest that are kept with the evidence",
    )
    fresh: bool = Field(
        default=False, description="play it in a guest that nothing was played in before"
    )
    settle: Settle | None = Field(
        default=None, description="as in `lab.yaml`, for this scenario alone"
    )
    steps: tuple[AnyStep, ...] = Field(
        min_length=1, max_length=MAX_STEPS, description="what is done, in this order"
    )


class ScenarioFile(Value):
    """A scenario file: scenarios by name."""

    scenarios: Mapping[Name, Scenario] = Field(min_length=1, description="scenarios by name")


# --- lab.yaml ------------------------------------------------------------------------------


class KernelEntry(Value):
    """A kernel of the lab: where it comes from, and in which userland it runs and builds.

    Each source of kernels (``adapters/sources``) has its own class below this one; ``key``
    is what tells them apart in the file.
    """

    key: ClassVar[str] = ""
    image: Name = Field(description="the recipe in `images/` that gives its userland")
    optional: bool = Field(
        default=False,
        description="where the kernel cannot be had, skip it with the reason, instead of failing",
    )

    def version_hint(self) -> KernelVersion | None:
        """What stands for its version until it is resolved; None where nothing can."""
        raise NotImplementedError

    def words(self, release: str) -> str:
        """What it asks for, in a few words; ``release`` is that of its image."""
        raise NotImplementedError


SparingArgument = Literal[
    "no_timer_check",
    "random.trust_cpu",
    "tsc",
    "cryptomgr.notests",
    "raid",
    "norandmaps",
    "mitigations",
]
"""What spares time, and why, says ``plan/qemu.py``."""


class GuestSettings(Value):
    """The virtual machine."""

    memory_mib: int = Field(default=512, ge=128, le=16384, description="memory of each guest")
    cpus: int = Field(default=2, ge=1, le=64, description="processors of each guest")
    arguments: tuple[KernelArgument, ...] = Field(
        default=(), description="further kernel arguments"
    )
    without: tuple[SparingArgument, ...] = Field(
        default=(), description="kernel arguments of the lab's own that are left out"
    )
    forks: bool = Field(
        default=True,
        description="boot once for each kernel, and play each scenario in a fork of that guest",
    )


class Timeouts(Value):
    """Seconds on KVM; where guests are emulated the lab allows more."""

    boot: Seconds = Field(default=30.0, description="until a guest is up")
    build: Seconds = Field(default=120.0, description="for the modules of one kernel to build")
    step: Seconds = Field(default=10.0, description="for a step without `timeout`")
    scenario: Seconds = Field(default=120.0, description="for all steps of a scenario")


class ModuleEntry(Value):
    """A folder of modules. A plain path in its place means ``path``."""

    plain_key: ClassVar[str] = "path"
    path: LabPath = Field(description="the folder that a build needs, relative to this file")
    folder: LabPath = Field(
        default=".",
        description="the folder that is built, with a `Kbuild` or `Makefile`, relative to `path`",
    )
    make: Command | None = Field(
        default=None, description="the command that builds it, where kbuild alone does not do"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        return _plain_as(cls.plain_key, as_written(raw))


BuildPlace = Literal["auto", "host", "guest"]
"""Where modules are built."""


class LabFile(Value):
    """``lab.yaml``."""

    lab: Name = Field(description="the lab's name")
    modules: Mapping[Name, ModuleEntry] = Field(
        default_factory=dict,
        description="folders with a `Kbuild` or `Makefile`, relative to this file, by a name",
    )
    kernels: Mapping[Name, KernelEntry] = Field(min_length=1, description="kernels by name")
    groups: Mapping[Name, Annotated[tuple[Name, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="kernels by group; `lab run` plays `quick` if there is one, else all",
    )
    scenarios: tuple[LabPath, ...] = Field(
        min_length=1, description="scenario files, relative to this file; `*` allowed"
    )
    leaves: tuple[GuestPath, ...] = Field(
        default=(), description="names that any scenario may leave behind, `*` and `?` allowed"
    )
    allow: tuple[AllowEntry, ...] = Field(
        default=(),
        max_length=MAX_ALLOWED,
        description="complaints of the kernel that are known, each with a reason and an end",
    )
    images: LabPath | None = Field(
        default=None, description="a folder with recipes of your own, relative to this file"
    )
    guest: GuestSettings = GuestSettings()
    build: BuildPlace = Field(
        default="auto",
        description="where modules are built: `guest`, `host` (in a box, with the guest's "
        "compiler), or `auto`: on the host where guests are emulated",
    )
    timeouts: Timeouts = Timeouts()
    settle: Settle = Field(
        default=2.0,
        description="seconds for which a fork is watched after its scenario's end",
    )


@functools.cache
def lab_file_model(entries: tuple[type[KernelEntry], ...]) -> type[LabFile]:
    """``LabFile`` for these kinds of kernels; the first is meant where an entry's key is absent."""
    keys = {entry.key: entry for entry in entries}

    def kind(raw: Any) -> str:
        if isinstance(raw, KernelEntry):
            return raw.key
        given = raw if isinstance(raw, Mapping) else {}
        return next((key for key in keys if key in given), entries[0].key)

    arms: list[Any] = [Annotated[entry, Tag(key)] for key, entry in keys.items()]
    union: Any = functools.reduce(operator.or_, arms)
    kernel: Any = Annotated[union, Discriminator(kind)] if len(arms) > 1 else entries[0]
    kernels = LabFile.model_fields["kernels"]
    return create_model(
        "LabFile",
        __base__=LabFile,
        __doc__=LabFile.__doc__,
        kernels=(
            Mapping[Name, kernel],
            Field(min_length=1, description=kernels.description),
        ),
    )


# --- what labfile makes of them ------------------------------------------------------------


class NamedScenario(Value):
    """A scenario with what its file says of it."""

    name: str = Field(description="file's stem, a slash, the scenario's name")
    path: Path
    line: int
    scenario: Scenario
    kernels: VersionRange

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that it loads, in order of first use."""
        loads = [step.load for step in self.scenario.steps if isinstance(step, LoadStep)]
        return tuple(dict.fromkeys((*self.scenario.modules, *loads)))

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """Every step, with the loads of ``modules`` before them."""
        loads = (LoadStep(load=name) for name in self.scenario.modules)
        return (*loads, *self.scenario.steps)

    @property
    def programs(self) -> tuple[ExecStep, ...]:
        """Every step that brings a program."""
        return tuple(step for step in self.scenario.steps if isinstance(step, ExecStep))


class Lab(Value):
    """A whole lab as read: paths resolved, scenarios in order, nothing fetched or run."""

    path: Path
    file: LabFile
    module_dirs: Mapping[str, Path]
    scenarios: tuple[NamedScenario, ...]
    images_dir: Path | None
    program_paths: Mapping[str, Path] = Field(default_factory=dict)
    """What `exec` steps bring, by what they call it."""
