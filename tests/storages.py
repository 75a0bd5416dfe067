"""Start OpenSearch and Cassandra, from Maven and without Docker, and run a command that reads where they are.

    python -m tests.storages --folder /tmp/storages --only opensearch -- python -m pytest tests/traces/readers/jaeger

Needs Java 17 and Maven; about 250 MB of packages are downloaded the first time. Both listen on 127.0.0.1 only, with
small heaps. The command gets ``TEST_OPENSEARCH_URL`` and ``TEST_CASSANDRA``, and both are ended after it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from example_project.servers import free_port
from tests.jaegers import wait_until

__all__ = ["start_cassandra", "start_opensearch"]

#: Later versions of OpenSearch need Java 21.
_OPENSEARCH = (
    "org.opensearch:opensearch:2.19.6",
    "org.opensearch.plugin:transport-netty4-client:2.19.6",
    "org.opensearch.plugin:analysis-common:2.19.6",
    "org.opensearch.plugin:lang-painless:2.19.6",
    "org.apache.logging.log4j:log4j-core:2.25.4",
)
_CASSANDRA = ("org.apache.cassandra:cassandra-all:5.0.5",)

_START_OPENSEARCH = """
import java.nio.file.*;
import java.util.*;
import org.opensearch.common.settings.Settings;
import org.opensearch.node.*;
import org.opensearch.plugins.Plugin;

public class StartOpenSearch extends Node {
    StartOpenSearch(Settings settings, Path config, Collection<Class<? extends Plugin>> plugins) {
        super(InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), config, () -> "test"), plugins, true);
    }

    public static void main(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]).toAbsolutePath();
        Path config = Files.createDirectories(home.resolve("config"));
        Settings settings = Settings.builder()
            .put("path.home", home.toString()).put("network.host", "127.0.0.1")
            .put("http.port", arguments[1]).put("transport.port", arguments[2])
            .put("transport.type", "netty4").put("http.type", "netty4").put("discovery.type", "single-node")
            .put("cluster.routing.allocation.disk.threshold_enabled", false)
            .build();
        new StartOpenSearch(settings, config, List.of(
            org.opensearch.transport.Netty4Plugin.class,
            org.opensearch.analysis.common.CommonAnalysisPlugin.class,
            org.opensearch.painless.PainlessPlugin.class)).start();
        Thread.currentThread().join();
    }
}
"""

_CASSANDRA_SETTINGS = """
cluster_name: test
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "127.0.0.1:{storage_port}"
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
storage_port: {storage_port}
native_transport_port: {port}
data_file_directories: [{folder}/data]
commitlog_directory: {folder}/commitlog
saved_caches_directory: {folder}/saved_caches
hints_directory: {folder}/hints
cdc_raw_directory: {folder}/cdc_raw
commitlog_sync: periodic
commitlog_sync_period: 10s
concurrent_reads: 8
concurrent_writes: 8
"""

#: As Cassandra's own conf/jvm17-server.options.
_CASSANDRA_JAVA = (
    "-Djdk.attach.allowAttachSelf=true",
    *(f"--add-exports={name}=ALL-UNNAMED" for name in (
        "java.base/jdk.internal.misc", "java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry",
        "java.rmi/sun.rmi.server", "java.sql/java.sql", "java.rmi/sun.rmi.transport.tcp", "jdk.compiler/com.sun.tools.javac.file",
    )),
    *(f"--add-opens={name}=ALL-UNNAMED" for name in (
        "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect", "java.base/java.io",
        "java.base/java.math", "java.base/java.net", "java.base/java.nio", "java.base/java.util",
        "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader",
        "java.base/jdk.internal.math", "java.base/jdk.internal.module", "java.base/jdk.internal.ref",
        "java.base/jdk.internal.reflect", "java.base/jdk.internal.util.jar", "java.base/sun.nio.ch",
        "java.rmi/sun.rmi.transport.tcp", "jdk.management/com.sun.management.internal", "jdk.management.jfr/jdk.management.jfr",
        "jdk.compiler/com.sun.tools.javac.tree",
    )),
)  # fmt: skip


def _libraries(folder: Path, packages: tuple[str, ...]) -> Path:
    """Download packages and what they need, once."""
    libraries = folder / "lib"
    if libraries.is_dir():
        return libraries
    if shutil.which("mvn") is None:
        sys.exit("needs Maven (mvn) and Java 17 on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *package.split(":")
        )
        for package in packages
    )
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>test</groupId>'
        f"<artifactId>test</artifactId><version>1</version><dependencies>{dependencies}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=downloading"]
    subprocess.run(command, cwd=folder, check=True)
    (folder / "downloading").rename(libraries)
    return libraries


def _started(stack: ExitStack, folder: Path, command: list[str], ready: Callable[[], bool]) -> None:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def stop() -> None:
        # What it stores is of no use after the tests.
        process.kill()
        process.wait()

    stack.callback(stop)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        return ready()

    wait_until(is_ready, f"{folder.name} to start, see {folder / 'log'}", 180)


def start_opensearch(stack: ExitStack, folder: Path) -> str:
    """Start an OpenSearch that ends with ``stack``, and return its URL."""
    libraries = _libraries(folder, _OPENSEARCH)
    (folder / "StartOpenSearch.java").write_text(_START_OPENSEARCH)
    shutil.rmtree(folder / "home", ignore_errors=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["java", "-Xmx384m", "-Djava.security.manager=allow", "-cp", f"{libraries}/*", "StartOpenSearch.java"]

    def ready() -> bool:
        try:
            urllib.request.urlopen(f"{url}/_cluster/health?wait_for_status=yellow&timeout=1s", timeout=5).close()
        except OSError:
            return False
        return True

    _started(stack, folder, [*command, "home", str(port), str(free_port())], ready)
    return url


def start_cassandra(stack: ExitStack, folder: Path) -> str:
    """Start a Cassandra that ends with ``stack``, and return its host and port."""
    libraries = _libraries(folder, _CASSANDRA)
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    port = free_port()
    settings = folder / "cassandra.yaml"
    settings.write_text(_CASSANDRA_SETTINGS.format(folder=home, port=port, storage_port=free_port()))
    (agent,) = libraries.glob("jamm-*.jar")
    command = [
        *("java", "-Xmx384m", f"-javaagent:{agent}", *_CASSANDRA_JAVA, "-cp", f"{libraries}/*"),
        *(f"-Dcassandra.config={settings.as_uri()}", f"-Dcassandra.storagedir={home}", "-Dcassandra-foreground=yes"),
        *("-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=100"),
        "org.apache.cassandra.service.CassandraDaemon",
    ]

    def ready() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 2).close()
        except OSError:
            return False
        return True

    _started(stack, folder, command, ready)
    return f"127.0.0.1:{port}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("/tmp/django-tracing-storages"), help="where to download to"
    )
    parser.add_argument("--only", choices=["opensearch", "cassandra"], help="start one of them")
    parser.add_argument("command", nargs="+", help="what to run")
    options = parser.parse_args()
    environment = dict(os.environ)
    folder = options.folder.absolute()
    with ExitStack() as stack:
        if options.only != "cassandra":
            environment["TEST_OPENSEARCH_URL"] = start_opensearch(stack, folder / "opensearch")
        if options.only != "opensearch":
            environment["TEST_CASSANDRA"] = start_cassandra(stack, folder / "cassandra")
        return subprocess.run(options.command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
