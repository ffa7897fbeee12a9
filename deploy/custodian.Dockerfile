# A custodian of a decryption key: its home in /srv/party, the socket at which it is asked in /srv/door.
# Build from the repository's root: docker build -f deploy/custodian.Dockerfile -t securefl-custodian .
FROM python:3.11.14-slim-bookworm AS build
COPY pyproject.toml README.md LICENSE requirements.lock /source/
COPY securefl /source/securefl
RUN python -m venv /opt/securefl \
 && /opt/securefl/bin/pip install --no-cache-dir --constraint /source/requirements.lock "/source[he]"

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/securefl /opt/securefl
# A home and a door that are this user's alone; then no shell and no installer is left.
RUN ["python", "-c", "import os, pathlib, shutil; [(os.makedirs(p, m), os.chmod(p, m), os.chown(p, 10003, 10003)) for p, m in (('/srv/party', 0o700), ('/srv/door', 0o711), ('/srv/metrics', 0o755))]; shutil.rmtree('/opt/securefl/lib/python3.11/site-packages/pip'); [pathlib.Path(d, n).unlink(missing_ok=True) for d in ('/bin', '/usr/bin') for n in ('sh', 'bash', 'dash', 'rbash', 'perl')]"]
ENV PATH=/opt/securefl/bin:/usr/local/bin PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive TMPDIR=/dev/shm
WORKDIR /srv/party
USER 10003:10003
STOPSIGNAL SIGTERM
ENTRYPOINT ["securefl"]
CMD ["site", "serve", "site.yaml", "--socket", "/srv/door/door", "--let-in", "10002", "--metrics", "/srv/metrics/custodian.prom", "--log", "json"]
