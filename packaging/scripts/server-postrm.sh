#!/bin/sh
# A removal leaves configuration, keys and queued signals; a purge takes all but the
# user, and what else is in /etc/atls-ws, such as keys: the CA's may be there.
set -e
if [ "$1" = purge ]; then
	rm -rf /var/lib/atls-ws /var/log/atls-ws
	rm -f /etc/atls-ws/server.yaml
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
