package shell

// ChildCommand is the argument under which a program whose jobs are in a sandbox has to call [ServeChild] and end.
const ChildCommand = "sandbox-child"

// Sandbox keeps the jobs of a server from what is not theirs; see the package's comment.
type Sandbox struct {
	// Hide are the files and directories that jobs must not see, whoever may read them: the server's data, credentials. The home
	// directory of the server's user is hidden in any case, and so are /tmp, /var/tmp and /run. They have to be there. A file that
	// is replaced by another one while a job runs comes into view again: hide its directory.
	Hide []string
	// Show are the files and directories that jobs may read although they are in what is hidden.
	Show []string
}

// Isolation is how jobs can be kept apart on a system.
type Isolation string

// What [Check] finds.
const (
	// NoIsolation is a system that has no sandbox, or forbids it.
	NoIsolation Isolation = ""
	// OwnNamespaces are jobs in namespaces of their own, with the user that the server runs as.
	OwnNamespaces Isolation = "namespaces"
	// OwnUser are jobs in namespaces of their own, each with a user of its own.
	OwnUser Isolation = "user"
)

// Where a job in a sandbox finds what is only its own.
const (
	insideDir   = "/run/keelson"
	insideHome  = insideDir + "/home"
	insideFiles = insideDir + "/files"
)
