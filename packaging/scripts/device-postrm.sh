#!/bin/sh
# A removal leaves configuration, state and keys; a purge takes all but the user, and
# what else is in /etc/atls-ws, such as keys.
set -e
if [ "$1" = purge ]; then
	rm -rf /var/lib/atls-ws-device
	rm -f /etc/atls-ws/device.yaml
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
