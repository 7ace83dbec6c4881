#!/bin/sh
# "$1" is upgrade for an upgrade, after which postinst starts the service again.
set -e
if [ "$1" = remove ] && command -v systemctl >/dev/null; then
	# Links of enabled units go in a chroot too; what runs is stopped, the socket with it:
	# devices that come back at once must not start the service again.
	systemctl --quiet disable atls-ws-server.service atls-ws-server.socket || true
	if [ -d /run/systemd/system ]; then
		systemctl stop atls-ws-server.service atls-ws-server.socket || true
	fi
fi
