"""Uploads models to Vertex AI, deploys them and asks them."""

from google.cloud import aiplatform_v1

from deploy.vertex import job_checks


class Service:
    """Models and endpoints of a region."""

    def __init__(self, models, endpoints, predictions, timeout_s: float):
        """
        Args:
            models: an `aiplatform_v1.ModelServiceClient`.
            endpoints: an `aiplatform_v1.EndpointServiceClient`.
            predictions: an `aiplatform_v1.PredictionServiceClient`.
            timeout_s: seconds to wait for each step.
        """
        self._models = models
        self._endpoints = endpoints
        self._predictions = predictions
        self._timeout_s = timeout_s

    @classmethod
    def of_region(cls, region: str, timeout_s: float) -> "Service":
        """With the default credentials."""
        where = {"api_endpoint": f"{region}-aiplatform.googleapis.com"}
        return cls(
            aiplatform_v1.ModelServiceClient(client_options=where),
            aiplatform_v1.EndpointServiceClient(client_options=where),
            aiplatform_v1.PredictionServiceClient(client_options=where),
            timeout_s,
        )

    def upload(self, parent: str, model: dict) -> str:
        """Uploads a model, as a new version if its name is known.

        Returns:
            The resource name of the version.
        """
        message = job_checks.parse("Model", model)
        request = {"parent": parent, "model": message}
        known = _find(self._models.list_models, parent, message.display_name)
        if known:
            request["parent_model"] = known
        done = self._models.upload_model(request=request).result(
            timeout=self._timeout_s
        )
        return f"{done.model}@{done.model_version_id}"

    def find_or_create_endpoint(self, parent: str, endpoint: dict) -> str:
        """The resource name of the endpoint of this name."""
        message = job_checks.parse("Endpoint", endpoint)
        known = _find(
            self._endpoints.list_endpoints, parent, message.display_name
        )
        if known:
            return known
        operation = self._endpoints.create_endpoint(
            request={"parent": parent, "endpoint": message}
        )
        return operation.result(timeout=self._timeout_s).name

    def deploy(self, endpoint: str, model: str, deployed_model: dict) -> None:
        """Deploys a model and sends it all traffic when it is ready.

        What was deployed before stays deployed without traffic, so that
        traffic can go back.
        """
        message = job_checks.parse("DeployedModel", deployed_model)
        message.model = model
        self._endpoints.deploy_model(
            # "0" is the model that this request deploys.
            request={
                "endpoint": endpoint,
                "deployed_model": message,
                "traffic_split": {"0": 100},
            }
        ).result(timeout=self._timeout_s)

    def predict(self, endpoint: str, instances: list[dict]) -> list[dict]:
        """What the model says of images, each `{"b64": …}`."""
        request = job_checks.parse(
            "PredictRequest", {"endpoint": endpoint, "instances": instances}
        )
        response = self._predictions.predict(
            request=request, timeout=self._timeout_s
        )
        return aiplatform_v1.PredictResponse.to_dict(response)["predictions"]


def _find(list_resources, parent: str, display_name: str) -> str:
    """The first resource of a name, "" if there is none."""
    found = list_resources(
        request={
            "parent": parent,
            "filter": f'display_name="{display_name}"',
        }
    )
    return next((resource.name for resource in found), "")
