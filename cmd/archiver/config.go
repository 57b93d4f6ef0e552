package main

import "github.com/spf13/cobra"

func (c *cli) configCommand() *cobra.Command {
	return c.jsonFlag(&cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration, secrets masked",
		Long: `Print the effective configuration: what the file, the environment and the flags come
to, with every value that a database or table inherits written out. Secrets are ***.
It connects to nothing. What is wrong with the configuration is reported all at once.

Examples:
  archiver config
  archiver config --config /etc/archiver/archiver.yaml --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a, err := c.load()
			if err != nil {
				return err
			}
			if c.json {
				return a.cfg.WriteJSON(c.out)
			}
			return a.cfg.WriteYAML(c.out)
		},
	})
}
