"""Record what the real CLI reports for some turns: `python tests/integration/record_golden.py`.

Writes tests/golden/<cli version>/<name>.jsonl: first a line with the prompt's uuid and the
workspace, then every message as the CLI sent it. Run it again for a new CLI and compare.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from claude_agent_sdk._internal import message_parser
from claude_kit import World, spec, world

GOLDEN = Path(__file__).parent.parent / "golden"
TURNS = {
    "text": "hello [[text:hello there, friend]]",
    "thinking": "think [[think:hm]][[text:so]]",
    "tool": '[[text:let me look]][[tool:Bash {"command":"echo hi"}]][[then]][[result]]',
    "edit": '[[tool:Write {"file_path":"WORKSPACE/a.txt","content":"x"}]][[then]][[text:done]]',
    "denied_by_us": '[[tool:Bash {"command":"curl http://x/"}]][[then]][[text:so be it]]',
    "denied_by_rule": '[[tool:Bash {"command":"rm foo"}]][[then]][[text:so be it]]',
    "subagent": '[[tool:Task {"description":"look","prompt":"sub [[text:from below]]",'
    '"subagent_type":"general-purpose"}]][[then]][[text:above]]',
    "cut_once": "[[text:one two three four]][[cut:2]][[times:1]]",
    "refused": "[[status:529]]",
}
BESIDE = {
    "background": '[[tool:Bash {"command":"timeout 0.5 tail -f /dev/null",'
    '"run_in_background":true}]][[then]][[text:started]]',
    "own_turn_before": "[[text:mine]]",
}


async def record(folder: Path, turns: Mapping[str, str], **env: str) -> None:
    """These turns in one process."""
    folder.mkdir()
    seen: list[dict[str, Any]] = []
    parse = message_parser.parse_message

    def tap(data: dict[str, Any]) -> Any:
        seen.append(data)
        return parse(data)

    message_parser.parse_message = tap
    async with world(folder) as here:
        maker = here.maker(
            allow=("Bash(echo:*)", "Bash(timeout:*)", "Task"), deny=("Bash(rm:*)",), env=env
        )
        agent = await maker.start(spec())
        workspace = here.home(spec().conversation).workspace
        version = ""
        for name, prompt in turns.items():
            if name == "own_turn_before":
                asked = len(here.model.requests)
                await here.model.until(partial(_more, here, asked))
            else:
                seen.clear()
            own = str(uuid.uuid4())
            async for _ in agent.turn(prompt.replace("WORKSPACE", str(workspace)), own):
                pass
            lines = [{"prompt_uuid": own, "workspace": str(workspace)}, *map(dict, seen)]
            for line in lines:
                if line.get("subtype") == "init":
                    version = line["claude_code_version"]
                    keep = ("type", "subtype", "session_id", "model", "claude_code_version", "uuid")
                    for key in [key for key in line if key not in keep]:
                        del line[key]
            target = GOLDEN / version
            target.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (target / f"{name}.jsonl").write_text(text.replace(str(here.base), "/larkline"))
            seen.clear()
        await agent.close()
    message_parser.parse_message = parse


def _more(here: World, asked: int) -> bool:
    return len(here.model.requests) > asked


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(record(Path(scratch) / "1", TURNS))
        beside = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}
        asyncio.run(record(Path(scratch) / "2", BESIDE, **beside))
    sys.stdout.write(f"recorded under {GOLDEN}\n")
