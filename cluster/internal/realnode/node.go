package realnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/cluster/internal/supervise"
)

// Namespaces are the flags that the node's process must be started with.
const Namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC

// Grace is how long an orderly end may take.
const Grace = 25 * time.Second

// containerGrace is the time that containers have between SIGTERM and SIGKILL
// when the node ends, whatever their pods ask for.
const containerGrace = 8 * time.Second

// Main is the node's process: it reads the Spec from the file that args names and
// runs until it gets SIGTERM. It returns the exit status.
func Main(args []string, verb string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var spec Spec
	err := errors.New("want one argument, the file of the node")
	if len(args) == 1 {
		var text []byte
		if text, err = os.ReadFile(args[0]); err == nil {
			err = json.Unmarshal(text, &spec)
		}
	}
	if err == nil {
		err = run(ctx, spec, verb, log)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return 1
	}
	return 0
}

// run makes the node's surroundings, starts its parts, and takes all of it down
// again when ctx ends.
func run(ctx context.Context, spec Spec, verb string, log *slog.Logger) error {
	if os.Getpid() != 1 {
		return errors.New("must be the first process of namespaces of its own")
	}
	if err := os.Setenv("PATH", searchPath()); err != nil {
		return err
	}
	machine, err := netns.GetFromPath(spec.MachineNet)
	if err != nil {
		return fmt.Errorf("the machine's network: %w", err)
	}
	defer func() { _ = machine.Close() }()
	if err := os.MkdirAll(RegistriesDir(spec.Dir), 0o700); err != nil {
		return err
	}
	if err := errors.Join(removeCgroup(spec.cgroup()), makeCgroup(spec.cgroup())); err != nil {
		return err
	}
	if err := isolateMounts(spec); err != nil {
		return err
	}
	if err := connect(spec.Link, machine); err != nil {
		return err
	}
	for _, port := range spec.Publish {
		if err := publish(ctx, spec.Link.Node, machine, port, log); err != nil {
			return err
		}
	}
	if err := writeConfiguration(spec, snapshotter(spec.Dir)); err != nil {
		return err
	}
	supervisor := &supervise.Supervisor{Executable: "/proc/self/exe", LogDir: spec.LogDir, HomeDir: spec.Dir, Log: log}
	defer end(spec, supervisor, log)
	go bury(ctx, supervisor)
	if err := start(ctx, spec, verb, supervisor); err != nil {
		return err
	}
	log.Info("node is started", "address", spec.Link.Node)
	<-ctx.Done()
	return nil
}

// start starts containerd, waits for it, and then starts the rest.
func start(ctx context.Context, spec Spec, verb string, supervisor *supervise.Supervisor) error {
	supervisor.Start(supervise.Component{
		Name: "containerd", Program: mustFind("containerd"),
		Args: []string{"--config", spec.file("config", "containerd.toml")},
	})
	startCtx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready after a minute"))
	defer cancel()
	client, closeClient, err := cri()
	if err != nil {
		return err
	}
	defer closeClient()
	err = supervisor.Await(startCtx, "containerd", func(ctx context.Context) error {
		_, err := client.Version(ctx, &runtimeapi.VersionRequest{})
		return err
	})
	if err != nil {
		return err
	}
	if err := importPause(startCtx, spec); err != nil {
		return err
	}
	supervisor.Start(supervise.Component{Name: "kubelet", Args: []string{
		verb, "kubelet",
		"--config=" + spec.file("config", "kubelet.yaml"), "--kubeconfig=" + spec.KubeletKubeconfig,
		"--root-dir=/var/lib/kubelet", "--hostname-override=" + Name, "--node-ip=" + spec.Link.Node.String(),
	}})
	supervisor.Start(supervise.Component{Name: "kube-proxy", Args: []string{
		verb, "kube-proxy", "--config=" + spec.file("config", "kube-proxy.yaml"),
	}})
	return nil
}

// mustFind returns the path of a program, or its name, so that starting it says what is missing.
func mustFind(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	return program
}

// cri connects to containerd.
func cri() (runtimeapi.RuntimeServiceClient, func(), error) {
	conn, err := grpc.NewClient("unix://"+containerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to containerd: %w", err)
	}
	return runtimeapi.NewRuntimeServiceClient(conn), func() { _ = conn.Close() }, nil
}

// end stops kube-proxy and kubelet, then the containers, which nobody starts again
// now, then containerd, then whatever is left in the PID namespace; and removes
// what the kernel does not remove by itself.
func end(spec Spec, supervisor *supervise.Supervisor, log *slog.Logger) {
	for supervisor.Running() > 1 {
		supervisor.StopLast()
	}
	if err := stopContainers(); err != nil {
		log.Warn("stop containers", "err", err)
	}
	supervisor.Stop()
	_ = unix.Kill(-1, unix.SIGKILL) // all but this process; none: nothing is left
	if err := removeCgroup(spec.cgroup()); err != nil {
		log.Warn("end", "err", err)
	}
}

// stopContainers gives all containers SIGTERM at once, and SIGKILL after a while.
func stopContainers() error {
	ctx, cancel := context.WithTimeout(context.Background(), containerGrace+4*time.Second)
	defer cancel()
	client, closeClient, err := cri()
	if err != nil {
		return err
	}
	defer closeClient()
	list, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, len(list.Containers))
	for i, container := range list.Containers {
		all.Go(func() {
			_, errs[i] = client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: container.Id, Timeout: int64(containerGrace.Seconds())})
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// bury waits for orphans: the first process of a PID namespace inherits them.
// Children of the supervisor are waited for by the supervisor.
func bury(ctx context.Context, supervisor *supervise.Supervisor) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	for {
		select {
		case <-ctx.Done():
			return
		case <-died:
		}
		for _, pid := range zombies() {
			if !supervisor.Owns(pid) {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // somebody else may have been first
			}
		}
	}
}

// zombies returns the children of this process that have ended.
func zombies() []int {
	var found []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state parent: the name may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[0] == "Z" && fields[1] == "1" {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}
