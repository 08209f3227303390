"""The backend keeps the contract."""

from dict_backend import DictBackend

from eclipse_ws.testing import BackendContract


class TestDictBackend(BackendContract):
    def make_backend(self, settings):
        return DictBackend(settings)
