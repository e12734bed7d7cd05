package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// runEtcd serves one etcd member until SIGTERM. It never syncs to disk: its data lives as long as a test.
func runEtcd(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("etcd wants DIR and PORT")
	}
	dir, client := args[0], "http://127.0.0.1:"+args[1]
	// A lone member has nobody to talk to; port 0 keeps its peer listener out of everybody's way.
	const name, peer = "default", "http://127.0.0.1:0"

	// The file's keys are the same for all versions, the names of the fields are not.
	file, err := json.Marshal(map[string]any{
		"name": name, "data-dir": dir, "unsafe-no-fsync": true, "log-level": "error",
		"listen-client-urls": client, "advertise-client-urls": client,
		"listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": name + "=" + peer,
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "config")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return err
	}
	config, err := embed.ConfigFromFile(path)
	if err != nil {
		return err
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		return nil
	case err := <-server.Err():
		return err
	}
}
