package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// askTime is less than what container engines give a health check by default.
const askTime = 5 * time.Second

func (c *cli) healthCommand() *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the worker on this host whether it is alive, or ready",
		Long: `Ask the worker that serves worker.listen on this host whether it is alive (its lease is
held) or, with --ready, whether it takes jobs and reaches all that it needs. It prints
what the worker says, a line for each check. For containers without a shell, and for
scripts.

The exit code is 0 for yes, 1 for no, 13 when nobody answers.

Examples:
  archiver health
  archiver health --ready`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.health(cmd.Context(), ready) },
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "ask /readyz in place of /healthz")
	return cmd
}

func (c *cli) health(ctx context.Context, ready bool) error {
	a, err := c.load()
	if err != nil {
		return err
	}
	if a.cfg.Worker.Listen == "" {
		return &exitError{code: exitUsage, err: errors.New("worker.listen is empty: workers serve no health"), hint: "set worker.listen, such as 127.0.0.1:8080"}
	}
	path, no := "/healthz", "the worker is not alive"
	if ready {
		path, no = "/readyz", "the worker is not ready"
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+localAddress(a.cfg.Worker.Listen)+path, nil)
	if err != nil {
		return fmt.Errorf("worker.listen: %w", err)
	}
	// Not through a proxy that the environment names: the worker is on this host.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return &exitError{code: exitUnreachable, err: fmt.Errorf("ask the worker: %w", err), hint: "see that archiver work runs on this host, and what it says about worker.listen"}
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is written
	if _, err := io.Copy(c.out, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return fmt.Errorf("ask the worker: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return &exitError{code: exitFailed, err: fmt.Errorf("%s (HTTP %d)", no, resp.StatusCode)}
	}
	return nil
}

// localAddress is how this host reaches an address that is listened on.
func localAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
