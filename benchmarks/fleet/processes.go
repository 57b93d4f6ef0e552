package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// replicaSession is the application_name of the replicas' connections.
const replicaSession = "bench_replica"

// process is a replica of this binary.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
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
			DSN: c.pg.DSN(database), ID: fmt.Sprintf("replica-%d-%d", p.cmd.Process.Pid, i), Databases: c.o.databases, Seats: c.o.seats, Places: s.Places,
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

// counts asks all replicas what they have done since they were last asked.
func (all processes) counts() (tally, error) {
	var sum tally
	for _, p := range all {
		if _, err := io.WriteString(p.in, "\n"); err != nil {
			return sum, fmt.Errorf("ask replica %d: %w", p.cmd.Process.Pid, err)
		}
	}
	for _, p := range all {
		if !p.out.Scan() {
			return sum, fmt.Errorf("replica %d has ended", p.cmd.Process.Pid)
		}
		var t tally
		if err := json.Unmarshal(p.out.Bytes(), &t); err != nil {
			return sum, fmt.Errorf("replica %d: %w", p.cmd.Process.Pid, err)
		}
		sum.Done, sum.Runs, sum.Snoozed = sum.Done+t.Done, sum.Runs+t.Runs, sum.Snoozed+t.Snoozed
		sum.Fetches, sum.EmptyFetches = sum.Fetches+t.Fetches, sum.EmptyFetches+t.EmptyFetches
		sum.Admit, sum.Reconcile = append(sum.Admit, t.Admit...), append(sum.Reconcile, t.Reconcile...)
		sum.Errors += t.Errors
		if t.Error != "" {
			sum.Error = t.Error
		}
	}
	return sum, nil
}

// stop ends them all, side by side.
func (all processes) stop() error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			errs[i] = p.in.Close()
			if err := p.cmd.Wait(); err != nil {
				errs[i] = fmt.Errorf("replica %d: %w", p.cmd.Process.Pid, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
