#!/bin/sh
# "$1" is upgrade for an upgrade, after which postinst starts the service again.
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --quiet disable --now atls-ws-device.service || true
fi
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --quiet disable --now atls-ws-bootstrap.timer || true
fi
