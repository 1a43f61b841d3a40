"""What stands in front of the SuperLink: nginx, which lets hospitals' requests through and no more.

One port of the SuperLink serves three interfaces, and in its open-source build two of them ask for
no proof of who calls: over those anybody could enrol a node or start code. So the SuperLink listens
on loopback, and the proxy passes the paths that nodes use.

Where the SuperLink cannot write (its disk is full) it answers 500, at which a node's thread of
heartbeats ends for good while the node goes on: it would be offline until somebody starts it anew
(Flower 1.41, tried). The proxy says 503 in its place, and nodes ask again.
"""

import getpass
import os
import shutil
from pathlib import Path

from metaward.errors import ConfigError
from metaward_server.coordinator.home import Coordinator

FLEET_PATHS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "pull-object",
    "push-object",
    "get-run",
    "get-fab",
    "confirm-message-received",
)
"""Of Flower's fleet interface, without `register-node` and `unregister-node`."""

MAX_BODY = "8m"
"""Longest request: Flower cuts arrays into parts of 5 MiB."""
AT_ONCE = 64
"""Requests that the SuperLink gets at once, so that it holds half a GiB of bodies at most. The
proxy answers 502 to more, and nodes ask again."""

TEMPLATE = """\
# Written by `metaward server start`; changes are lost.
daemon off;
master_process on;
worker_processes 1;
{user}pid "{folder}/nginx.pid";
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server_tokens off;
  client_body_temp_path "{folder}/body";
  proxy_temp_path "{folder}/passed";
  fastcgi_temp_path "{folder}/unused";
  uwsgi_temp_path "{folder}/unused";
  scgi_temp_path "{folder}/unused";
  client_max_body_size {max_body};
  client_header_timeout 30s;
  client_body_timeout 60s;
  upstream superlink {{ server {superlink} max_conns={at_once} max_fails=0; }}
  server {{
    listen {bound} ssl;
    ssl_certificate "{certificate}";
    ssl_certificate_key "{key}";
    ssl_protocols TLSv1.2 TLSv1.3;
    location ~ ^/v1/fleet/({paths})$ {{
      proxy_pass https://superlink;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_ssl_trusted_certificate "{authority}";
      proxy_read_timeout 120s;
      proxy_intercept_errors on;
      error_page 500 = @later;
    }}
    location @later {{ return 503; }}
    location / {{ return 404; }}
  }}
}}
"""


def proxy_config(coordinator: Coordinator) -> str:
    """Return nginx's configuration for this coordinator."""
    # root's workers would become another user, who may not enter the coordinator's folder
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    return TEMPLATE.format(
        user=user,
        folder=_in_quotes(coordinator.folder / "proxy"),
        max_body=MAX_BODY,
        at_once=AT_ONCE,
        bound=coordinator.settings.bound,
        certificate=_in_quotes(coordinator.certificate),
        key=_in_quotes(coordinator.key),
        paths="|".join(FLEET_PATHS),
        superlink=coordinator.superlink,
        authority=_in_quotes(coordinator.ca_certificate),
    )


def _in_quotes(path: Path) -> str:
    r"""Return a path as it stands between nginx's quotation marks.

    >>> print(_in_quotes(Path('the "new" one')))
    the \"new\" one
    """
    return str(path).replace("\\", r"\\").replace('"', r"\"")


def find_nginx() -> str:
    """Return the path of nginx.

    Raises:
        ConfigError: It is not installed.
    """
    for folder in (None, "/usr/sbin:/usr/local/sbin:/sbin"):
        if found := shutil.which("nginx", path=folder):
            return found
    raise ConfigError(
        "nginx is not installed",
        expected="the program that stands between hospitals and the SuperLink",
        where="this machine",
        next_step="apt-get install nginx-light, or your system's package.",
    )


def write_proxy_config(coordinator: Coordinator) -> Path:
    """Write the configuration and return its path."""
    path = coordinator.folder / "proxy" / "nginx.conf"
    path.write_text(proxy_config(coordinator), encoding="utf-8")
    return path
