"""A Hugging Face Hub on the loopback interface, for the real client.

Speaks what `huggingface_hub` uses for models: create a repository, look it up, list it, pre-upload, LFS batch, upload
and verify, commit (pull requests too), branches, and resolve. Large files redirect to a second port, as the real Hub
redirects to a storage host that must not see the token. Faults are injected with `fail`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".pth", ".png")


@dataclass
class Stored:
    """A file of a commit."""

    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """Git's checksum of the blob: of a large file that is the pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        data = pointer.encode() if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass
class Repository:
    """Branches and pull requests (name -> commit), and commits (name -> files)."""

    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, Stored], message: str = "") -> str:
        stated = json.dumps([sorted((n, f.oid) for n, f in files.items()), self.refs.get(ref), ref, len(self.commits)])
        name = hashlib.sha1(stated.encode()).hexdigest()
        self.refs[ref], self.commits[name], self.messages[name] = name, files, message
        return name

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests that match "METHOD /path".

    `kind` is a status, "cut" (the connection closes half-way through the body), "short" (half the body, said to be
    all) or "flipped" (a changed byte).
    """

    pattern: str
    kind: int | str
    times: int = 1


class HubServer:
    """The Hub at `endpoint`; tokens: "write" and "read" of the user "me", who is in "org"."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, token
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, kind)) for kind in (_Hub, _Storage)]
        self.endpoint, self.storage_endpoint = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def reset(self) -> None:
        with self.lock:
            for kept in (self.repositories, self.storage, self.requests, self.faults):
                kept.clear()

    def add(self, name: str, files: dict[str, bytes], ref: str = "main", **settings: Any) -> str:
        """Put files there as if they had been committed; returns the commit."""
        repository = self.repositories.setdefault(name, Repository(**settings))
        stored = {path: Stored(data, path.endswith(LARGE)) for path, data in files.items()}
        self.storage |= {f.sha256: f.data for f in stored.values() if f.large}
        return repository.commit(ref, stored)

    def fail(self, pattern: str, kind: int | str, times: int = 1) -> None:
        self.faults.append(Fault(pattern, kind, times))

    def asked(self, pattern: str) -> list[str]:
        """The requests so far that match, as "METHOD /path"."""
        with self.lock:
            lines = [f"{method} {path}" for method, path, _ in self.requests]
        return [line for line in lines if re.search(pattern, line)]

    def fault(self, line: str) -> int | str | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault.kind
        return None


def connect(hub: HubServer, monkeypatch: Any, home: Path, token: str | None = "write") -> None:
    """Let the client of this process talk to the server, with its cache in `home`, and not wait long between tries."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "AI_AGENT", "AGENT"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    values = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HOME": str(home),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,  # the storage protocol of hf_xet is not spoken here
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.005)))


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


def _handler(hub: HubServer, kind: type[_Answers]) -> type[_Answers]:
    return type("Handler", (kind,), {"hub": hub})


class _Answers(BaseHTTPRequestHandler):
    """Reading and answering, the same for both ports."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, and the second would wait for 40 ms
    hub: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(20)

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.url_path, self.query = unquote(url.path), parse_qs(url.query)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.token = token if scheme == "Bearer" else None
        self.body = self._read_body()
        with self.hub.lock:
            self.hub.requests.append((self.command, self.url_path, self.token))
        self.kind = self.hub.fault(f"{self.command} {self.url_path}")
        try:
            if isinstance(self.kind, int):
                raise Refusal(self.kind, "injected")
            with self.hub.lock:
                status, data, headers = self.route()
        except Refusal as refusal:
            status, data = refusal.status, json.dumps({"error": refusal.message}).encode()
            headers = {"X-Error-Message": refusal.message, "Content-Type": "application/json"}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
        self._send(status, data, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def route(self) -> tuple[int, bytes, dict[str, str]]:
        raise NotImplementedError

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if status == 200 and start and self.command == "GET" and "ETag" in headers:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[first:]
        sent = data
        if self.command == "GET" and status < 300:
            if self.kind == "flipped":
                sent = data[:-1] + bytes([data[-1] ^ 1])
            elif self.kind == "short":
                sent = data = data[: len(data) // 2]
            elif self.kind == "cut":
                sent = data[: len(data) // 2]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        if len(sent) != len(data):
            self.close_connection = True


class _Storage(_Answers):
    """Where large files lie, under their SHA-256; addresses are signed, so there are no tokens."""

    def route(self) -> tuple[int, bytes, dict[str, str]]:
        if self.token is not None:
            raise Refusal(400, "a token was sent to the storage host")
        oid = self.url_path.removeprefix("/")
        if self.query.get("signed") != ["yes"]:
            raise Refusal(403, "not signed")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refusal(400, "checksum mismatch")
            self.hub.storage[oid] = self.body
            return 200, b"", {"ETag": f'"{oid}"'}
        if oid not in self.hub.storage:
            raise Refusal(404, "no such object")
        return 200, self.hub.storage[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}


class _Hub(_Answers):
    """The API and the files."""

    def route(self) -> tuple[int, bytes, dict[str, str]]:
        if self.token is not None and self.token not in ("write", "read"):
            raise Refusal(401, "Invalid credentials in Authorization header")
        routes = [
            (r"GET /api/whoami-v2", self.whoami),
            (r"POST /api/validate-yaml", self.validate_yaml),
            (r"POST /api/repos/create", self.create),
            (r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"GET /api/models/([^/]+/[^/]+)/tree/(.+)", self.tree),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"POST /api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/verify", self.verify),
            (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/(.+)/([^/]+)", self.resolve),
        ]
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, f"{self.command} {self.url_path}"):
                value = answer(*match.groups())
                if isinstance(value, tuple):
                    return value
                return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}
        raise Refusal(404, f"no route for {self.command} {self.url_path}")

    # --- who may do what ----------------------------------------------------------------------------------------

    def readable(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.token is None):
            # The real Hub does not tell strangers which repositories there are.
            status, text = (
                (401, "Invalid username or password.") if self.token is None else (404, "Repository not found")
            )
            raise Refusal(status, text, "RepoNotFound")
        return repository

    def open_files(self, name: str) -> Repository:
        repository = self.readable(name)
        if repository.gated and self.token != "write":
            raise Refusal(403, f"Access to model {name} is restricted. Visit {self.hub.endpoint}/{name}.", "GatedRepo")
        return repository

    def may_write(self, name: str) -> None:
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        if self.token != "write" or name.partition("/")[0] not in ("org", "me"):
            raise Refusal(403, f"You don't have the rights to write to {name}")

    def at(self, repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # --- reading --------------------------------------------------------------------------------------------------

    def whoami(self) -> Any:
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        return {"name": "me", "type": "user", "orgs": [{"name": "org"}]}

    def info(self, name: str, revision: str | None) -> Any:
        repository = self.readable(name)
        commit = self.at(repository, revision or "main")
        return {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": repository.gated and "manual",
            "siblings": [{"rfilename": path} for path in repository.commits[commit]],
            "tags": [],
        }

    def tree(self, name: str, revision: str) -> Any:
        repository = self.readable(name)
        entries = []
        for path, stored in repository.commits[self.at(repository, revision)].items():
            size = len(stored.data)
            entry: dict[str, Any] = {"type": "file", "path": path, "oid": stored.oid, "size": size}
            if stored.large:
                entry["lfs"] = {"oid": stored.sha256, "size": size, "pointerSize": 134}
            entries.append(entry)
        return entries

    def resolve(self, name: str, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        repository = self.open_files(name)
        commit = self.at(repository, revision)
        stored = repository.commits[commit].get(path)
        if stored is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{stored.etag}"', "Accept-Ranges": "bytes"}
        if not stored.large:
            return 200, stored.data, headers
        headers |= {"X-Linked-ETag": f'"{stored.sha256}"', "X-Linked-Size": str(len(stored.data))}
        return 302, b"", headers | {"Location": f"{self.hub.storage_endpoint}/{stored.sha256}?signed=yes"}

    # --- writing --------------------------------------------------------------------------------------------------

    def validate_yaml(self) -> Any:
        content = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        try:
            yaml.safe_load(match[1] if match else "")
        except yaml.YAMLError as err:
            return 400, json.dumps({"errors": [{"message": str(err)}], "warnings": []}).encode(), {}
        return {"errors": [], "warnings": [] if match else [{"message": "empty or missing yaml metadata"}]}

    def create(self) -> Any:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        self.may_write(name)
        address = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return 409, json.dumps(address | {"error": "You already created this model repo"}).encode(), {}
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = repository = Repository(private)
        repository.commit("main", {".gitattributes": Stored(b"*.safetensors filter=lfs\n", False)}, "initial commit")
        return address

    def branch(self, name: str, branch: str) -> Any:
        repository = self.readable(name)
        self.may_write(name)
        if branch in repository.refs:
            raise Refusal(409, "Reference already exists")
        repository.refs[branch] = repository.refs["main"]
        return {}

    def preupload(self, name: str, revision: str) -> Any:
        repository = self.readable(name)
        if "create_pr" not in self.query:
            self.may_write(name)
        there = repository.commits[self.at(repository, revision)]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": there[file["path"]].etag if file["path"] in there else None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    def batch(self, name: str) -> Any:
        self.readable(name)
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.storage:
                upload = f"{self.hub.storage_endpoint}/{wanted['oid']}?signed=yes"
                verify = f"{self.hub.endpoint}/{name}.git/info/lfs/verify"
                entry["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def verify(self, name: str) -> Any:
        wanted = json.loads(self.body)
        if len(self.hub.storage.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "object was not uploaded")
        return {}

    def commit(self, name: str, revision: str) -> Any:
        repository = self.readable(name)
        as_pull_request = self.query.get("create_pr") == ["1"]
        if self.token is None or not as_pull_request:  # anyone who may read may propose
            self.may_write(name)
        files = dict(repository.commits[self.at(repository, revision)])
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.storage:
                    raise Refusal(400, f"{value['path']}: large file was not uploaded")
                files[value["path"]] = Stored(self.hub.storage[value["oid"]], True)
            else:
                raise Refusal(400, f"unknown operation {item['key']}")
        number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
        commit = repository.commit(f"refs/pr/{number}" if as_pull_request else revision, files, message)
        address = f"{self.hub.endpoint}/{name}"
        answer = {"success": True, "commitOid": commit, "commitUrl": f"{address}/commit/{commit}", "hookOutput": ""}
        return answer | {"pullRequestUrl": f"{address}/discussions/{number}" if as_pull_request else None}
