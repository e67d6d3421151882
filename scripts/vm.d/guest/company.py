"""The company's servers: company.py ADDRESS FIRST-LAST...; each port says which one it is, and closes."""

import asyncio
import sys


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"hello from {writer.get_extra_info('sockname')[1]}\n".encode())
    await writer.drain()
    writer.close()


async def main(address: str, ranges: list[str]) -> None:
    servers = []
    for ports in ranges:
        first, last = map(int, ports.split("-"))
        for port in range(first, last + 1):
            servers.append(await asyncio.start_server(greet, address, port))
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main(sys.argv[1], sys.argv[2:]))
