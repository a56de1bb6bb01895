# Ends what the demo left running, once the demo is gone for whatever reason, and removes its folder.
#
# $1 is the folder. Standard input says which processes are there, one line each: "+ PID" was started, as the leader
# of its own process group; "- PID" has ended. Its end means that the demo is gone.

trap '' HUP INT TERM

left=
while read -r change pid; do
    case $change in
    +) left="$left $pid" ;;
    -)
        others=
        for other in $left; do
            [ "$other" = "$pid" ] || others="$others $other"
        done
        left=$others
        ;;
    esac
done

# INT first: it makes PostgreSQL disconnect its clients, TERM alone would wait for them.
for pid in $left; do
    kill -s INT -- "-$pid"
    kill -s TERM -- "-$pid"
done
for pid in $left; do
    tenths=0
    while kill -s 0 -- "-$pid" && [ "$tenths" -lt 50 ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
    kill -s KILL -- "-$pid"
done
rm -rf -- "$1"
