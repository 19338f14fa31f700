package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The kinds of nodes that the embedded cluster may have.
const (
	nodeSimulated = "simulated"
	nodeReal      = "real"
)

// checkNode says what keeps this machine from running a node of some kind.
func checkNode(ctx context.Context, kind string) error {
	if kind != nodeReal {
		return nil
	}
	program, err := findClusterProgram()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "run", "--node", nodeReal, "--check").Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("find out whether this machine can run a real node: %w", err)
	}
	err = errors.New("this machine cannot run a real node")
	for line := range strings.Lines(string(out)) {
		if what, missing := strings.CutPrefix(line, "missing"); missing {
			err = fmt.Errorf("%w; %s", err, "missing: "+strings.TrimSpace(what))
		}
	}
	return hintf(err, "keelson up --node simulated has simulated nodes, which need nothing; docs/cluster.md tells what a real one needs")
}

// settleNode decides which kind of node the embedded cluster has.
func (d *Daemon) settleNode() error {
	if d.inst.External {
		if d.Runner == runnerPod {
			return usagef("--ci-executor pod is for the embedded cluster with --node real: Pods of another cluster do not reach this machine; keelson server is for that")
		}
		if d.Node == nodeReal {
			return usagef("--node real is for the embedded cluster: the cluster of %s has its own nodes", d.inst.Kubeconfig)
		}
		return nil
	}
	if d.Node != "" {
		d.inst.Node, d.inst.Outbound = d.Node, d.Outbound
	}
	d.inst.Runner, d.inst.JobImage = cmp.Or(d.Runner, d.inst.Runner), cmp.Or(d.JobImage, d.inst.JobImage)
	if d.inst.Runner == runnerPod && d.inst.Node != nodeReal {
		return hintf(errors.New("jobs cannot run as Pods: no node of this instance runs containers"), "keelson up --node real --ci-executor pod, or --ci-executor shell")
	}
	return nil
}

// clusterArgs are what the embedded cluster is started with.
func (d *Daemon) clusterArgs() []string {
	if d.inst.Node != nodeReal {
		return []string{"--nodes", strconv.Itoa(d.Nodes)}
	}
	args := []string{"--node", nodeReal}
	if d.inst.Outbound {
		args = append(args, "--outbound")
	}
	if d.ci.get() == nil { // no pipelines are played, so there are no jobs
		return args
	}
	return append(args, "--publish", strconv.Itoa(d.inst.AccessPort), "--registry", strconv.Itoa(d.inst.JobsPort),
		"--registry-login", filepath.Join(d.Data, ciDir, loginFile))
}

// ports notes where this server listens for jobs.
func (s *pipelineServer) ports(inst *instance) {
	inst.AccessPort, inst.JobsPort = portOf(s.access.listener), 0
	if s.jobs != nil {
		inst.JobsPort = portOf(s.jobs.listener)
	}
}
