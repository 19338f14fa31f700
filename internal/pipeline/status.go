package pipeline

// Status is GitLab's status of a pipeline, a stage or a job.
type Status string

// The statuses.
const (
	StatusCreated            Status = "created"
	StatusWaitingForResource Status = "waiting_for_resource"
	StatusPreparing          Status = "preparing"
	StatusWaitingForCallback Status = "waiting_for_callback"
	StatusPending            Status = "pending"
	StatusRunning            Status = "running"
	StatusSuccess            Status = "success"
	StatusFailed             Status = "failed"
	StatusCanceling          Status = "canceling"
	StatusCanceled           Status = "canceled"
	StatusSkipped            Status = "skipped"
	StatusManual             Status = "manual"
	StatusScheduled          Status = "scheduled"
)

// Completed tells whether nothing more happens by itself.
func (s Status) Completed() bool {
	return s == StatusSuccess || s == StatusFailed || s == StatusCanceled || s == StatusSkipped
}

// FailureReason says why a job failed, in GitLab's words; retry:when names them.
type FailureReason string

// The reasons that our executors give.
const (
	UnknownFailure      FailureReason = "unknown_failure"
	ScriptFailure       FailureReason = "script_failure"
	RunnerSystemFailure FailureReason = "runner_system_failure"
	RunnerUnsupported   FailureReason = "runner_unsupported"
	ExecutionTimeout    FailureReason = "job_execution_timeout"
	MissingDependency   FailureReason = "missing_dependency_failure"
	ConfigurationError  FailureReason = "runner_configuration_error"
	SchedulerFailure    FailureReason = "scheduler_failure"
	DownstreamFailure   FailureReason = "downstream_pipeline_creation_failed"
	DataIntegrity       FailureReason = "data_integrity_failure"

	EnvironmentFailure   FailureReason = "environment_creation_failure"
	OutdatedDeployment   FailureReason = "failed_outdated_deployment_job"
	ProtectedEnvironment FailureReason = "protected_environment_failure"
)
