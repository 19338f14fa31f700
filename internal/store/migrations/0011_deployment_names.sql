-- The names of the objects and the SHAs of the commits that a deployment says it has written (deployments.wrote).
CREATE TABLE deployment_names (
    name       TEXT NOT NULL,
    deployment INTEGER NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    PRIMARY KEY (name, deployment)
) STRICT;
CREATE INDEX deployment_names_deployment ON deployment_names (deployment);
