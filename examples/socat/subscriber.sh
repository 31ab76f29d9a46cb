#!/bin/sh
# Prints the items of two lists, one a line, until it is told to stop. It needs
# socat and nothing else.
#
#   NATS_URL=nats://127.0.0.1:4222 ./subscriber.sh
#
# PING is answered when everything before it is printed, so Redis keeps the items
# that were not. A shell takes a process an item: this is for trying it, and for a
# few items a second.

if [ "$1" != converse ]; then
	server=${NATS_URL:-nats://127.0.0.1:4222}
	trap 'kill $! 2>/dev/null; exit 0' INT TERM
	while :; do
		# The output of converse to 3 is this script's output; the rest goes to edged.
		socat "TCP:${server#nats://}" "EXEC:$0 converse" 3>&1 &
		wait $!
		sleep 0.5 # edged may restart
	done
fi

printf 'CONNECT {"verbose":false,"pedantic":false,"name":"subscriber.sh"}\r\nSUB events 1\r\nSUB readings 2\r\n'
while read -r verb subject rest; do
	case $verb in
	MSG) # MSG subject sid [reply] length
		length=${rest##* }
		printf '%s ' "$subject" >&3
		head -c "$(printf %d "${length%?}")" >&3 # without the CR
		echo >&3
		read -r _ # the end of the line after the payload
		;;
	PING?) printf 'PONG\r\n' ;;
	-ERR) echo "$verb $subject $rest" >&2 ;;
	esac
done
