# A coordinator: its home and document in /srv/party. It needs no network, no model and no torch.
# Build from the repository's root: docker build -f deploy/coordinator.Dockerfile -t securefl-coordinator .
FROM python:3.11.14-slim-bookworm AS build
COPY pyproject.toml README.md LICENSE requirements.lock /source/
COPY securefl /source/securefl
RUN python -m venv /opt/securefl \
 && /opt/securefl/bin/pip install --no-cache-dir --constraint /source/requirements.lock "/source"

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/securefl /opt/securefl
# A home and a door that are this user's alone; then no shell and no installer is left.
RUN ["python", "-c", "import os, pathlib, shutil; [(os.makedirs(p, m), os.chmod(p, m), os.chown(p, 10002, 10002)) for p, m in (('/srv/party', 0o700), ('/srv/door', 0o711), ('/srv/metrics', 0o755))]; shutil.rmtree('/opt/securefl/lib/python3.11/site-packages/pip'); [pathlib.Path(d, n).unlink(missing_ok=True) for d in ('/bin', '/usr/bin') for n in ('sh', 'bash', 'dash', 'rbash', 'perl')]"]
ENV PATH=/opt/securefl/bin:/usr/local/bin PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive TMPDIR=/dev/shm
WORKDIR /srv/party
USER 10002:10002
STOPSIGNAL SIGTERM
ENTRYPOINT ["securefl"]
CMD ["coordinate", "coordinator.yaml", "--out", "run", "--metrics", "/srv/metrics/coordinator.prom", "--log", "json"]
