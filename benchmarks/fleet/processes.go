package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
)

// replicaSession is the application_name of the replicas' connections.
const replicaSession = "bench_replica"

// process is a replica of this binary.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	ended bool // by itself; it has said why
}

type processes []*process

// startReplicas starts them one after another. What it returns must be stopped, with an
// error too.
func (c *control) startReplicas(ctx context.Context, s scenario) (processes, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var all processes
	for i := range s.Replicas {
		p := &process{cmd: exec.CommandContext(ctx, self)}
		p.cmd.Env = append(os.Environ(), asReplica+"=1", "PGAPPNAME="+replicaSession, "GOMAXPROCS=1")
		p.cmd.Stderr = os.Stderr
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			return all, err
		}
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			return all, err
		}
		p.out = bufio.NewScanner(out)
		p.out.Buffer(nil, 16<<20)
		if err := p.cmd.Start(); err != nil {
			return all, err
		}
		all = append(all, p)
		err = json.NewEncoder(p.in).Encode(order{
			DSN: c.pg.DSN(database), ID: fmt.Sprintf("replica-%d-%d", p.cmd.Process.Pid, i), Databases: c.o.databases, Tables: c.o.tables, Seats: c.o.seats, Places: s.Places,
			Hands: c.o.hands, Pool: c.o.poolSize(), Stage: s.Stage, Idle: s.Idle, Prepared: c.o.prepared,
		})
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (all processes) pids() []int {
	var pids []int
	for _, p := range all {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// counts asks all replicas what they have done since they were last asked. Those that
// have ended are left out.
func (all processes) counts() (tally, error) {
	for _, p := range all {
		if _, err := io.WriteString(p.in, "\n"); err != nil {
			p.ended = true
		}
	}
	var sum tally
	for _, p := range all {
		if p.ended || !p.out.Scan() {
			p.ended = true
			continue
		}
		var t tally
		if err := json.Unmarshal(p.out.Bytes(), &t); err != nil {
			return sum, fmt.Errorf("replica %d: %w", p.cmd.Process.Pid, err)
		}
		sum.add(t)
	}
	return sum, nil
}

// stop ends them all, side by side, and returns how many could not go on: they did not
// come up or lost their lease, since the database or this machine could not keep up.
func (all processes) stop() (failed int) {
	var count atomic.Int64
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() {
			_ = p.in.Close() // of one that has ended is closed already
			if p.cmd.Wait() != nil {
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return int(count.Load())
}
