"""A person at the page, by plain HTTP: logs in, keeps cookies, sends forms with the token that the page gave."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.support.world import World

ADMIN, VIEW = "admin-token-for-tests", "view-token-for-tests"


@dataclass(slots=True)
class Answer:
    """What came back; redirects are not followed."""

    status: int
    text: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Person:
    """See the module. `csrf` is that of the page seen last."""

    http: aiohttp.ClientSession
    address: str
    csrf: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._ask("GET", path, headers=headers)

    async def post(self, path: str, form: Mapping[str, object] | None = None, **headers: str) -> Answer:
        """A form of the page seen last."""
        data = aiohttp.FormData()
        for name, value in {"csrf": self.csrf, **(form or {})}.items():
            for one in value if isinstance(value, list) else [value]:
                data.add_field(name, str(one))
        return await self._ask("POST", path, data=data, headers=headers)

    async def login(self, token: str = ADMIN, name: str = "Lan") -> Answer:
        answer = await self._ask("POST", "/login", data={"token": token, "name": name}, headers={})
        if answer.status == 303:
            await self.get("/")
        return answer

    async def _ask(self, method: str, path: str, *, headers: Mapping[str, str], data: object = None) -> Answer:
        async with self.http.request(
            method, self.address + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            text = await response.text()
            if found := re.search(r'"X-CSRF-Token":"(\w+)"', text):
                self.csrf = found[1]
            return Answer(status=response.status, text=text, headers=response.headers)


@asynccontextmanager
async def person(address: str | None, token: str | None = ADMIN) -> AsyncIterator[Person]:
    """Somebody with a cookie jar of their own, logged in unless `token` is None."""
    assert address is not None
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        somebody = Person(http=http, address=address)
        if token is not None:
            assert (await somebody.login(token)).status == 303
        yield somebody


@asynccontextmanager
async def page_of(world: World, token: str = ADMIN) -> AsyncIterator[Person]:
    """A running service, and somebody logged in at its page."""
    async with world.service(admin_token=ADMIN, view_token=VIEW) as service, person(service.address, token) as somebody:
        yield somebody
