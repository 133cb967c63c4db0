from tests.unit.client.fake_service import service

__all__ = ["service"]
