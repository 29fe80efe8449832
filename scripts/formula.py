#!/usr/bin/env python3
"""Writes a Homebrew formula for the release archives of a folder, from the checksums beside them.

Usage: scripts/formula.py FOLDER BASE_URL > aded.rb      BASE_URL: where the archives can be fetched
"""

import pathlib
import re
import sys

SYSTEMS = {
    "aarch64-apple-darwin": ("on_macos", "arm?"),
    "x86_64-unknown-linux-gnu": ("on_linux", "intel?"),
    "aarch64-unknown-linux-gnu": ("on_linux", "arm?"),
}


def main(folder, url):
    archives = {}
    for file in sorted(pathlib.Path(folder).glob("aded-*.tar.gz.sha256")):
        checksum, name = file.read_text().split()
        version, host = re.fullmatch(r"aded-(\d+\.\d+\.\d+)-(.*)\.tar\.gz", name.lstrip("*")).groups()
        if host in SYSTEMS:
            archives[host] = (version, checksum, name.lstrip("*"))
    if not archives:
        sys.exit(f"formula: no checksums of known systems in {folder}; make archives with scripts/release.sh first")
    versions = {version for version, _, _ in archives.values()}
    if len(versions) != 1:
        sys.exit(f"formula: archives of several versions in {folder}: {', '.join(sorted(versions))}; keep one")
    print("class Aded < Formula")
    print('  desc "Local GGUF models answer faster: adaptive draft-and-verify decoding for llama.cpp"')
    print(f'  homepage "{url.split("/releases/")[0]}"')
    print(f'  version "{versions.pop()}"')
    print('  license any_of: ["MIT", "Apache-2.0"]')
    for system in ("on_macos", "on_linux"):
        hosts = [host for host in archives if SYSTEMS[host][0] == system]
        if not hosts:
            continue
        print(f"\n  {system} do")
        for host in hosts:
            _, checksum, name = archives[host]
            print(f"    if Hardware::CPU.{SYSTEMS[host][1]}")
            print(f'      url "{url}/{name}"\n      sha256 "{checksum}"\n    end')
        print("  end")
    print("""
  def install
    bin.install "bin/aded"
    lib.install Dir["lib/*"]
    doc.install Dir["share/doc/aded/*"]
    man1.install Dir["share/man/man1/*"]
    generate_completions_from_executable(bin/"aded", "completions")
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/aded --version")
  end
end""")


if len(sys.argv) != 3:
    sys.exit(__doc__)
main(*sys.argv[1:])
