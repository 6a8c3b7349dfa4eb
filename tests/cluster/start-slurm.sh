#!/usr/bin/env bash
# A SLURM of two nodes on this one host, in a folder of its own, for tests: as root, with Debian's slurm-wlm and munge.
#
#   start-slurm.sh start FOLDER   then: export SLURM_CONF=FOLDER/slurm.conf
#   start-slurm.sh stop FOLDER
set -euo pipefail

usage() { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# = 2 ] || usage
action=$1 folder=$(realpath -m "$2")
PATH=$PATH:/usr/sbin:/sbin
nodes="n1 n2"

free() { local one; for one; do if (: <"/dev/tcp/127.0.0.1/$one") 2>/dev/null; then return 1; fi; done; }

start() {
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "$program is not installed: apt-get install slurm-wlm munge" >&2; exit 3; }
  done
  [ "$(id -u)" = 0 ] || { echo "needs root: the daemons run jobs in other users' names" >&2; exit 3; }
  mkdir -p "$folder/state"
  chmod 755 "$folder"
  until free $((port = 10000 + RANDOM % 20000)) $((port + 1)) $((port + 2)); do :; done  # below those of outgoing connections
  host=$(uname -n) host=${host%%.*}  # as the daemons ask; hostname -s wants a resolver
  cat >"$folder/slurm.conf" <<END
ClusterName=mcdo
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
KillWait=10
InactiveLimit=0
MessageTimeout=60
DefMemPerCPU=1000
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=3 RealMemory=16000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=3 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
  dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
  chmod 400 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  export SLURM_CONF=$folder/slurm.conf
  slurmctld -c
  for node in $nodes; do slurmd -N "$node"; done
  for _ in $(seq 120); do
    [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | wc -l)" = 2 ] && { sinfo; return; }
    sleep 0.5
  done
  echo "the nodes do not come up; see $folder/*.log" >&2
  sinfo -R >&2 || true
  stop
  exit 4
}

stop() {
  SLURM_CONF=$folder/slurm.conf scancel --full --user="$(id -un)" 2>/dev/null || true
  sleep 1
  for signal in TERM KILL; do  # a daemon that waits for a job gets the second
    for name in slurmd.n1 slurmd.n2 slurmctld munged; do
      if [ -f "$folder/$name.pid" ]; then kill -$signal "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
    done
    sleep 2
  done
}

case $action in
  start) start ;;
  stop) stop ;;
  *) usage ;;
esac
