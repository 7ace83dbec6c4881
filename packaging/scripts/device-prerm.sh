#!/bin/sh
# "$1" is upgrade for an upgrade, after which postinst starts the service again.
set -e
if [ "$1" = remove ] && command -v systemctl >/dev/null; then
	# Links of enabled units go in a chroot too.
	systemctl --quiet disable atls-ws-device.service atls-ws-bootstrap.timer || true
	if [ -d /run/systemd/system ]; then
		systemctl stop atls-ws-device.service atls-ws-bootstrap.timer || true
	fi
fi
